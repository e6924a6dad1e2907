(* Some of the wrong variants in mutants.py are not only refused but false: each is refuted at one small instance. *)
From mathcomp Require Import ssreflect ssrfun ssrbool eqtype ssrnat div seq choice fintype tuple finfun bigop.
From mathcomp Require Import fingroup perm ssralg poly zmodp matrix order ssrnum ssrint rat.
From Equiv Require Import Common Attention Softmax Depthwise.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(* Column vectors of two tokens, row vectors of two channels, and a matrix with one 1. *)
Let first : 'M[int]_(2, 1) := \matrix_(n, k) (n == ord0)%:R.
Let second : 'M[int]_(2, 1) := \matrix_(n, k) (n != ord0)%:R.
Let left_ : 'M[int]_(1, 2) := \matrix_(n, k) (k == ord0)%:R.
Let right_ : 'M[int]_(1, 2) := \matrix_(n, k) (k != ord0)%:R.
Let corner : 'M[int]_2 := \matrix_(n, m) ((n == ord0) && (m != ord0))%:R.
Let all_ones := const_mx 1 : 'M[int]_(1, 1).
Let end_ : 'I_2 := ord_max.

Ltac compute_entries := rewrite /linear_layer /conv1x1 ?mxE ?big_ord_recl ?big_ord0 ?mxE ?big_ord_recl ?big_ord0 ?mxE.

(* 1a, the bias is dropped. *)
Lemma no_bias : ~ forall (X W b : 'M[int]_1), linear_layer X W b ord0 ord0 = \sum_c X ord0 c * W c ord0.
Proof. by move/(_ 0 0 all_ones); compute_entries. Qed.

(* 1b, the first bias is added unchanged. *)
Lemma unchanged_bias : ~ forall (X W b W2 b2 : 'M[int]_1),
  linear_layer (linear_layer X W b) W2 b2 ord0 ord0 = linear_layer X (W *m W2) (b + b2) ord0 ord0.
Proof. by move/(_ 0 0 all_ones 0 0); compute_entries. Qed.

(* 2a, location and kernel change places. *)
Lemma places_changed : ~ forall (Q K : 'M[int]_(2, 1)) n m,
  (Q *m K^T) n m = conv1x1 (fun n k => Q n k) (fun _ k m => K m k) m n.
Proof. by move/(_ first second ord0 end_); compute_entries. Qed.

(* 3a, the weights are transposed. *)
Lemma weights_transposed : ~ forall (A : 'M[int]_2) (V : 'M[int]_(2, 1)) n k,
  (A *m V) n k = conv1x1 (fun n m => A m n) (fun _ m k => V m k) n k.
Proof. by move/(_ corner second ord0 ord0); compute_entries. Qed.

(* 3b, the bias is transposed; phi is the identity. *)
Lemma bias_transposed : ~ forall (Q K V : 'M[int]_(2, 1)) (Bias : 'M[int]_2) n k,
  attention 1 (fun x => x) Q K V Bias n k =
  attention_conv 1 (fun x => x) (fun n => Q n) (fun n => K n) (fun n => V n) (fun n m => Bias m n) n k.
Proof. by move/(_ 0 0 second corner ord0 ord0); rewrite /attention /attention_conv; compute_entries. Qed.

(* 5c, the order of mixing and projecting does not matter. *)
Lemma any_order : ~ forall (X W b E : 'M[int]_1),
  (E *m linear_layer X W b) ord0 ord0 = (E *m X *m W) ord0 ord0 + b ord0 ord0.
Proof. by move/(_ 0 0 all_ones 0); compute_entries. Qed.

(* 6a, merged the other way round. *)
Lemma merged_transposed : ~ forall (Q K V : 'M[int]_(1, 2)) n k,
  (Q *m K^T *m V) n k = conv1x1 (fun n => Q n) (fun _ a k => \sum_m K m k * V m a) n k.
Proof. by move/(_ left_ left_ right_ ord0 end_); compute_entries. Qed.

(* 6b, the bias acts on the keys. *)
Lemma bias_on_keys : ~ forall (Q K V : 'M[int]_(2, 1)) (Bias : 'M[int]_2) n k,
  ((Q *m K^T + Bias) *m V) n k =
  conv1x1 (fun n => Q n) (fun _ a k => \sum_m K m a * V m k) n k + \sum_m Bias n m * K m k.
Proof. by move/(_ 0 0 second corner ord0 ord0); compute_entries. Qed.

(* 7a, the kernel is dense. *)
Lemma dense_kernel : ~ forall (q k : 'I_1 -> 'I_2 -> int) n c,
  \sum_m q n c * k m c = conv1x1 q (fun _ _ c => \sum_m k m c) n c.
Proof. by move/(_ (fun _ _ => 1) (fun _ _ => 1) ord0 ord0); compute_entries. Qed.

(* 10b, the rows sum to zero. *)
Lemma rows_sum_to_zero : ~ forall (e : rat -> rat) (x : 'I_1 -> option rat),
  \sum_j ebar e (x j) != 0 -> \sum_i softmax e x i = 0.
Proof. by move/(_ (fun _ => 1) (fun _ => Some 0)); rewrite /softmax /= !big_ord1 => /(_ isT). Qed.
