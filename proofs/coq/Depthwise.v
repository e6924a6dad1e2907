(* Family 7: depth-wise self-attention is a depth-wise 1x1 convolution with the average kernel (Eq. 5). *)
Require Import Common Facts Window.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Depthwise.
Variables (R : comRingType) (N h d : nat) (t : R). (* t = 1/N *)
Implicit Types (Q K Z : 'M[R]_(N, h * d)).

(* A depth-wise convolution is a dense one whose kernel is diagonal. *)
Definition diagonal (L : Type) (D : finType) (kernel : L -> D -> R) : L -> D -> D -> R :=
  fun n a c => kernel n a *+ (a == c).

Lemma depthwise_conv (L : Type) (D : finType) (x kernel : L -> D -> R) n c :
  conv1x1 x (diagonal kernel) n c = x n c * kernel n c.
Proof.
rewrite -[RHS](sum_delta c (fun a => x n a * kernel n a)).
by apply: eq_bigr => a _; rewrite mulrnAr.
Qed.

(* 7a. Averaging the products with all kernels is one depth-wise convolution with the average kernel. *)
Theorem depthwise_is_conv (q k : 'I_N -> 'I_d -> R) n c :
  t * (\sum_m q n c * k m c) = conv1x1 q (diagonal (fun _ c => t * \sum_m k m c)) n c.
Proof.
by rewrite depthwise_conv -big_distrr mulrCA.
Qed.

(* 7b. Eq. 5: the bias of channel D is that of its head; in head g it weighs a second bank Z of depth-wise kernels. *)
Theorem depthwise_with_bias Q K Z (Rel : 'I_h -> 'M[R]_N) n g k :
  let D := cat (g, k) in
  Q n D * (t * \sum_m K m D) + \sum_m Rel (its_head D) n m * Z m D =
  conv1x1 (fun n k => Q n (cat (g, k))) (diagonal (fun _ k => t * \sum_m K m (cat (g, k)))) n k
    + conv1x1 (fun n m => Rel g n m) (fun _ m k => Z m (cat (g, k))) n k.
Proof.
by rewrite /= depthwise_conv head_cat.
Qed.
End Depthwise.

(* 7c. In a shifted window the average is over the kernels of the window's part, and so is their number. *)
Theorem depthwise_in_window (F : fieldType) (Token Win Place : finType) (d : nat)
    (tok : Win * Place -> Token) (place : Token -> Win * Place) (Label : eqType) (region : Token -> Label)
    (q k : Token -> 'I_d -> F) n c :
  cancel tok place -> cancel place tok ->
  let both m := ((place m).1 == (place n).1) && (region m == region n) in
  let own j := tok ((place n).1, j) in
  q n c * (\sum_(m | both m) k m c) / (\sum_(m | both m) 1) =
  q n c * (\sum_(j | region (own j) == region n) k (own j) c) / #|[pred j | region (own j) == region n]|%:R.
Proof.
move=> tokK placeK both own.
by rewrite !(window_sum tokK placeK _ (fun m => region m == region n)) [in LHS]sumr_const.
Qed.
