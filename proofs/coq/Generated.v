(* Family 9: D-DW-Conv and involution: generated kernels, applied as unfold, multiply and sum.

   read y (u, v) is the pixel that tap (u, v) reads at location y; tap (u, v) is number u*T + v. *)
Require Import Common Facts.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Generated.
Variables (R : comRingType) (Location Pixel : Type) (T : nat) (read : Location -> 'I_T * 'I_T -> Pixel).

(* 9a. A depth-wise convolution with one generated kernel set for each image is unfold, multiply, sum. *)
Theorem depthwise_is_unfold_sum (D : finType) (image : D -> Pixel -> R) (kernel : D -> 'I_(T * T) -> R) y a :
  \sum_t kernel a t * image a (read y (uncat t)) =
  \sum_b \sum_u \sum_v kernel a (cat (u, v)) * image b (read y (u, v)) *+ (b == a).
Proof.
rewrite -[LHS](sum_delta a (fun b => \sum_(t < T * T) kernel a t * image b (read y (uncat t)))).
apply: eq_bigr => b _; rewrite sum_cat -sumrMnl; apply: eq_bigr => u _.
by rewrite -sumrMnl; apply: eq_bigr => v _; rewrite catK.
Qed.

(* 9b. Involution: each location convolves its own patch with its own kernel, shared by the channels of a group. *)
Theorem involution_is_unfold_sum (h d : nat) (image : 'I_(h * d) -> Pixel -> R)
    (local : 'I_h -> 'I_T * 'I_T -> Location -> R) y (g : 'I_h) (k : 'I_d) :
  let D := cat (g, k) in
  \sum_(t < T * T) local (its_head D) (uncat t) y * image D (read y (uncat t)) =
  \sum_u \sum_v local g (u, v) y * image D (read y (u, v)).
Proof.
rewrite /= head_cat sum_cat; apply: eq_bigr => u _; apply: eq_bigr => v _.
by rewrite catK.
Qed.
End Generated.
