(* Family 1: a linear layer on tokens is a static 1x1 convolution on the feature map. *)
Require Import Common.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Linear.
Variables (R : comRingType) (N C O P : nat).
Implicit Types (X : 'M[R]_(N, C)) (W : 'M[R]_(C, O)) (b : 'rV[R]_O).

(* 1a. The linear layer at the token in row y, column x is a K x K convolution with K = 1. *)
Theorem linear_is_conv (token : nat -> nat -> 'I_N) X W b y x o :
  linear_layer X W b (token y x) o =
  \sum_(u < 1) \sum_(v < 1) \sum_c X (token (y + u)%N (x + v)%N) c * W c o + b 0 o.
Proof.
by rewrite !big_ord1 !addn0 linear_layerE.
Qed.

(* 1b. Two static 1x1 convolutions are one; the first bias goes through the second kernel. *)
Theorem static_after_static (L : Type) (I J K : finType) (x : L -> I -> R)
    (W : I -> J -> R) (b : J -> R) (W2 : J -> K -> R) (b2 : K -> R) n p :
  static W2 b2 (static W b x) n p =
  static (fun c p => \sum_o W c o * W2 o p) (fun p => \sum_o b o * W2 o p + b2 p) x n p.
Proof.
rewrite /static /conv1x1 addrA; congr (_ + _).
under eq_bigr do rewrite mulrDl big_distrl /=.
rewrite big_split /= exchange_big; congr (_ + _); apply: eq_bigr => c _.
by rewrite big_distrr /=; apply: eq_bigr => o _; rewrite mulrA.
Qed.

(* 1b, as matrices. *)
Theorem linear_after_linear X W b (W2 : 'M[R]_(O, P)) (b2 : 'rV[R]_P) :
  linear_layer (linear_layer X W b) W2 b2 = linear_layer X (W *m W2) (b *m W2 + b2).
Proof.
rewrite /linear_layer mulmxDl -mulmxA -addrA; congr (_ + _).
apply/matrixP => n p; rewrite !mxE; congr (_ + _).
by apply: eq_bigr => o _; rewrite !mxE.
Qed.
End Linear.
