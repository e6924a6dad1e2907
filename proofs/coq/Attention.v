(* Families 2 and 3: attention is a pair of dynamic 1x1 convolutions around an activation along the kernel axis. *)
Require Import Common Facts.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section OneHead.
Variables (R : comRingType) (N d : nat) (s : R).
Implicit Types (Q K V : 'M[R]_(N, d)) (A Bias : 'M[R]_N).

(* 2a. The logits are a convolution d -> N of the queries; kernel m is the key of token m, times the scale s. *)
Theorem query_key_is_conv Q K n m :
  (s *: (Q *m K^T)) n m = conv1x1 (fun n k => Q n k) (fun _ k m => s * K m k) n m.
Proof.
rewrite !mxE big_distrr /=; apply: eq_bigr => k _.
by rewrite mxE mulrCA.
Qed.

(* 3a. Multiplying by the values is a convolution N -> d; its input channel is the kernel index. *)
Theorem attention_value_is_conv A V n k :
  (A *m V) n k = conv1x1 (fun n m => A n m) (fun _ m k => V m k) n k.
Proof.
by rewrite mxE.
Qed.

Variable phi : ('I_N -> R) -> 'I_N -> R.
Hypothesis phi_by_values : by_values phi.

(* The textbook form: phi along each row of s Q K^T + Bias, times V. *)
Definition attention Q K V Bias : 'M[R]_(N, d) := rowwise phi (s *: (Q *m K^T) + Bias) *m V.

(* The convolution form: dynamic convolution, activation along the kernel axis, dynamic convolution. *)
Definition attention_conv (q k v : 'I_N -> 'I_d -> R) (bias : 'I_N -> 'I_N -> R) : 'I_N -> 'I_d -> R :=
  conv1x1 (fun n => phi (fun m => conv1x1 q (fun _ c m => s * k m c) n m + bias n m)) (fun _ m c => v m c).

(* 3b. The two forms are the same. *)
Theorem attention_is_two_convs Q K V Bias n k :
  attention Q K V Bias n k =
  attention_conv (fun n => Q n) (fun n => K n) (fun n => V n) (fun n => Bias n) n k.
Proof.
rewrite mxE; apply: eq_bigr => m _; congr (_ * _); rewrite mxE.
by apply: phi_by_values => j; rewrite mxE query_key_is_conv.
Qed.
End OneHead.

Section Block.
Variables (R : comRingType) (N C O d h : nat) (s : R).
Variable phi : ('I_N -> R) -> 'I_N -> R.
Hypothesis phi_by_values : by_values phi.

(* The channels of head g, and heads side by side: channel c of head g is channel g*d + c, as in every program. *)
Definition head_of (Y : 'M[R]_(N, h * d)) (g : 'I_h) : 'M[R]_(N, d) := \matrix_(n, c) Y n (cat (g, c)).
Definition side_by_side (Y : 'I_h -> 'M[R]_(N, d)) : 'M[R]_(N, h * d) :=
  \matrix_(n, D) Y (its_head D) n (its_channel D).

Definition block (X : 'M_(N, C)) (Wq Wk Wv : 'M_(C, h * d)) (bq bk bv : 'rV_(h * d)) (Rel : 'I_h -> 'M[R]_N)
    (Wo : 'M_(h * d, O)) (bo : 'rV_O) : 'M[R]_(N, O) :=
  let one g := attention s phi (head_of (linear_layer X Wq bq) g) (head_of (linear_layer X Wk bk) g)
                 (head_of (linear_layer X Wv bv) g) (Rel g) in
  linear_layer (side_by_side one) Wo bo.

(* 3c. A whole multi-head block: static conv -> dynamic conv -> phi -> dynamic conv -> static conv. *)
Theorem block_is_convs (X : 'M_(N, C)) (Wq Wk Wv : 'M_(C, h * d)) (bq bk bv : 'rV_(h * d)) (Rel : 'I_h -> 'M[R]_N)
    (Wo : 'M_(h * d, O)) (bo : 'rV_O) n o :
  block X Wq Wk Wv bq bk bv Rel Wo bo n o =
  let project (W : 'M_(C, h * d)) (b : 'rV_(h * d)) g :=
    static (fun c e => W c (cat (g, e))) (fun e => b 0 (cat (g, e))) (fun n => X n) in
  static (fun (gc : 'I_h * 'I_d) o => Wo (cat gc) o) (fun o => bo 0 o)
    (fun n gc => attention_conv s phi (project Wq bq gc.1) (project Wk bk gc.1) (project Wv bv gc.1)
                   (fun n => Rel gc.1 n) n gc.2) n o.
Proof.
rewrite /block linear_layerE /static /=; congr (_ + _); rewrite /conv1x1 sum_cat pair_bigA /=.
apply: eq_bigr => -[g c] _ /=; rewrite mxE attention_is_two_convs //.
have [-> ->] : its_head (cat (g, c)) = g /\ its_channel (cat (g, c)) = c by have [-> ->] := catK (g, c).
have projected (W : 'M_(C, h * d)) b m a : head_of (linear_layer X W b) g m a =
    static (fun c e => W c (cat (g, e))) (fun e => b 0 (cat (g, e))) (fun n => X n) m a by rewrite mxE linear_layerE.
congr (_ * _); apply: eq_bigr => m _; rewrite projected; congr (_ * _).
apply: phi_by_values => j; congr (_ + _).
by apply: eq_bigr => a _; rewrite !projected.
Qed.
End Block.
