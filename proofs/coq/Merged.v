(* Family 6: without an activation the pair of convolutions is one, with the merged kernel (Fig. 5, Eq. 4). *)
Require Import Common.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Merged.
Variables (R : comRingType) (N d : nat) (s : R).
Implicit Types (Q K V : 'M[R]_(N, d)) (Bias : 'M[R]_N).

(* 6a. Two linear dynamic convolutions are one, d -> d, with the kernel s K^T V. *)
Theorem merged_kernel Q K V n k :
  (s *: (Q *m K^T) *m V) n k = conv1x1 (fun n => Q n) (fun _ a k => s * \sum_m K m a * V m k) n k.
Proof.
rewrite -scalemxAl -mulmxA !mxE big_distrr; apply: eq_bigr => a _ /=.
rewrite mulrCA mxE; do 2![congr (_ * _)]; apply: eq_bigr => m _.
by rewrite mxE.
Qed.

(* 6a. The merged kernel is the sum of the outer products of keys and values (Fig. 5). *)
Theorem merged_kernel_outer K V :
  K^T *m V = \sum_m (row m K)^T *m row m V.
Proof.
apply/matrixP => a c; rewrite mxE summxE; apply: eq_bigr => m _.
by rewrite !mxE big_ord1 !mxE.
Qed.

(* 6b. Eq. 4: the relative position bias is a second term, on the values. *)
Theorem merged_with_bias Q K V Bias n k :
  ((s *: (Q *m K^T) + Bias) *m V) n k =
  conv1x1 (fun n => Q n) (fun _ a k => s * \sum_m K m a * V m k) n k + \sum_m Bias n m * V m k.
Proof.
by rewrite mulmxDl mxE merged_kernel [in X in _ + X]mxE.
Qed.

(* 6c. Inside a window the merged kernel sums over the tokens of the window, token n j for location n. *)
Theorem merged_in_window (Token Place : finType) (q k v : Token -> 'I_d -> R) (token : Token -> Place -> Token) n c :
  \sum_j s * (\sum_a q n a * k (token n j) a) * v (token n j) c =
  conv1x1 q (fun n a c => s * \sum_j k (token n j) a * v (token n j) c) n c.
Proof.
under eq_bigr do rewrite -mulrA big_distrl big_distrr /=.
rewrite exchange_big; apply: eq_bigr => a _ /=; rewrite mulrCA !big_distrr /=.
by apply: eq_bigr => j _; rewrite !mulrA.
Qed.
End Merged.
