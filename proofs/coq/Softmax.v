(* Family 10: softmax: shift invariance, rows that sum to one, equivariance under permutations; masks of -oo.

   e stands for exp: any map of a field to itself with e (x + y) = e x * e y, which is all that is used.
   In MathComp x / 0 = 0; where a denominator must not be 0 the theorem says so. *)
Require Import Common Attention.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Softmax.
Variables (F : fieldType) (e : F -> F) (I : finType).
Hypothesis eD : forall x y, e (x + y) = e x * e y.

(* A logit is a number, or None: -oo, whose exponential is 0. *)
Definition ebar (x : option F) : F := if x is Some y then e y else 0.
Definition softmax (x : I -> option F) (i : I) : F := ebar (x i) / \sum_j ebar (x j).
Definition masked (keep : pred I) (x : I -> F) (i : I) : option F := if keep i then Some (x i) else None.

(* 10a. Adding the same number to all logits changes nothing. *)
Theorem softmax_shift (x : I -> F) t i :
  e t != 0 -> softmax (fun j => Some (x j + t)) i = softmax (fun j => Some (x j)) i.
Proof.
move=> et; rewrite /softmax /= eD; under eq_bigr do rewrite eD.
by rewrite -big_distrl /= invfM mulrACA mulfV // mulr1.
Qed.

(* 10b. The weights sum to one. *)
Theorem softmax_rows (x : I -> option F) :
  \sum_j ebar (x j) != 0 -> \sum_i softmax x i = 1.
Proof.
by move=> z; rewrite -big_distrl /= mulfV.
Qed.

(* 10c. Permuting the logits permutes the softmax: fact Equivariant holds of softmax. *)
Theorem softmax_equivariant (x : I -> option F) (s : {perm I}) i :
  softmax (fun j => x (s j)) i = softmax x (s i).
Proof.
by rewrite /softmax [in RHS](reindex_inj (@perm_inj _ s)).
Qed.

(* Softmax depends on values only. *)
Theorem softmax_by_values (x y : I -> option F) : x =1 y -> softmax x =1 softmax y.
Proof.
by move=> E i; rewrite /softmax E; under eq_bigr do rewrite E.
Qed.

(* A mask of -oo leaves the kept kernels, above and below. *)
Theorem masked_is_selected (keep : pred I) (x v : I -> F) :
  \sum_i softmax (masked keep x) i * v i = \sum_(i | keep i) e (x i) / (\sum_(j | keep j) e (x j)) * v i.
Proof.
rewrite [RHS]big_mkcond; apply: eq_bigr => i _; rewrite /softmax.
have -> : \sum_j ebar (masked keep x j) = \sum_(j | keep j) e (x j).
  by rewrite [RHS]big_mkcond; apply: eq_bigr => j _; rewrite /masked; case: (keep j).
by rewrite /masked; case: (keep i) => //=; rewrite !mul0r.
Qed.

(* A mask that keeps one kernel gives it weight one, whatever the logits. *)
Theorem one_kept (i0 : I) (x v : I -> F) :
  e (x i0) != 0 -> \sum_i softmax (masked (pred1 i0) x) i * v i = v i0.
Proof.
by move=> nz; rewrite masked_is_selected !big_pred1_eq mulfV // mul1r.
Qed.
End Softmax.

(* 10d. Permuting the tokens permutes the output of attention, if phi treats all kernels alike. *)
Theorem permutation_equivariance (R : comRingType) (N d : nat) (s : R) (phi : ('I_N -> R) -> 'I_N -> R)
    (p : 'S_N) (Q K V : 'M[R]_(N, d)) :
  by_values phi -> equivariant phi ->
  attention s phi (row_perm p Q) (row_perm p K) (row_perm p V) 0 = row_perm p (attention s phi Q K V 0).
Proof.
move=> phi_by_values phi_equivariant.
apply/matrixP => n c; rewrite [RHS]mxE 2!mxE [RHS](reindex_inj (@perm_inj _ p)); apply: eq_bigr => m _.
rewrite !mxE -phi_equivariant; congr (_ * _); apply: phi_by_values => j; rewrite !mxE.
by congr (_ * _ + _); apply: eq_bigr => a _; rewrite !mxE.
Qed.

(* The activations that are used are equivariant: those of each logit by itself, and softmax (fact Equivariant). *)
Theorem elementwise_equivariant (R : Type) (I : finType) (rho : R -> R) :
  equivariant (fun (x : I -> R) i => rho (x i)).
Proof.
by [].
Qed.

Theorem softmax_is_equivariant (F : fieldType) (e : F -> F) (I : finType) :
  equivariant (fun (x : I -> F) i => softmax e (fun j => Some (x j)) i).
Proof.
by move=> s x i; rewrite (softmax_equivariant e (fun j => Some (x j))).
Qed.
