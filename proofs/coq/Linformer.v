(* Family 5: Linformer mixes kernels before it convolves; with a bias, the order of mixing and projecting matters. *)
Require Import Common.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Linformer.
Variables (R : comRingType) (N M C d : nat) (s : R) (phi : ('I_M -> R) -> 'I_M -> R).
Hypothesis phi_by_values : by_values phi.
Implicit Types (Q K V : 'M[R]_(N, d)) (E F : 'M[R]_(M, N)).

(* A pair of dynamic convolutions d -> M -> d, with mixtures of the N kernels. *)
Definition mixed_kernels Q K V E F : 'I_N -> 'I_d -> R :=
  conv1x1 (fun n => phi (conv1x1 (fun n => Q n) (fun _ a p => s * \sum_m E p m * K m a) n))
    (fun _ p c => \sum_m F p m * V m c).

(* 5a. Attention over projected keys and values is that pair. *)
Theorem linformer_is_soft_selection Q K V E F n k :
  (rowwise phi (s *: (Q *m (E *m K)^T)) *m (F *m V)) n k = mixed_kernels Q K V E F n k.
Proof.
rewrite mxE; apply: eq_bigr => p _; rewrite !mxE; congr (_ * _); apply: phi_by_values => p'.
by rewrite !mxE big_distrr; apply: eq_bigr => a _ /=; rewrite !mxE mulrCA.
Qed.

(* 5b. Mixing kernels is mixing logits, if that is done before phi. *)
Theorem mixing_kernels_is_mixing_logits Q K V E F n k :
  (rowwise phi (s *: (Q *m K^T) *m E^T) *m (F *m V)) n k = mixed_kernels Q K V E F n k.
Proof.
by rewrite -linformer_is_soft_selection trmx_mul (mulmxA Q) -scalemxAl.
Qed.

(* 5c. Mixing projected tokens is projecting mixed tokens, but the bias is multiplied by the mixture's row sum. *)
Theorem mixing_after_projecting (X : 'M[R]_(N, C)) (W : 'M[R]_(C, d)) (b : 'rV[R]_d) E p k :
  (E *m linear_layer X W b) p k = (E *m X *m W) p k + (\sum_m E p m) * b 0 k.
Proof.
rewrite /linear_layer mulmxDr mulmxA mxE; congr (_ + _); rewrite mxE big_distrl.
by apply: eq_bigr => m _; rewrite mxE.
Qed.
End Linformer.
