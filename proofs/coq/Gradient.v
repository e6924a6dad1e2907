(* Family 12: both forms have the same gradients, written out through an uninterpreted Jacobian J of phi.

   A derivative is the coefficient of 'X of what a form computes from arrays of polynomials A + dA 'X: forms are made of
   sums and products, which polynomials have, too, so that the sum and product rules are those of polynomials. Of phi it
   is assumed that to first order phi (z + dz 'X) = phi z + J z dz 'X (the chain rule); for every phi and J there is
   such a map of polynomials (lift_exists). That J is the Jacobian of phi over the reals is not a matter of these theorems.
   The gradient by an array is what its direction dA is multiplied by. *)
Require Import Common Attention.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Lemma coef0M (R : comRingType) (p q : {poly R}) : (p * q)`_0 = p`_0 * q`_0.
Proof. by rewrite coefM big_ord1. Qed.
Lemma coef1M (R : comRingType) (p q : {poly R}) : (p * q)`_1 = p`_0 * q`_1 + p`_1 * q`_0.
Proof. by rewrite coefM big_ord_recl big_ord1. Qed.

(* A + dA 'X *)
Definition curve (R : ringType) (m n : nat) (A dA : 'M[R]_(m, n)) : 'M[{poly R}]_(m, n) :=
  \matrix_(i, j) ((A i j)%:P + (dA i j)%:P * 'X).

Lemma curve0 (R : ringType) (m n : nat) (A dA : 'M[R]_(m, n)) i j : (curve A dA i j)`_0 = A i j.
Proof. by rewrite mxE coefD coefC coefCM coefX mulr0 addr0. Qed.
Lemma curve1 (R : ringType) (m n : nat) (A dA : 'M[R]_(m, n)) i j : (curve A dA i j)`_1 = dA i j.
Proof. by rewrite mxE coefD coefC coefCM coefX mulr1 add0r. Qed.

Section Lift.
Variables (R : comRingType) (N : nat) (phi : ('I_N -> R) -> 'I_N -> R) (J : ('I_N -> R) -> 'I_N -> 'I_N -> R).
Hypothesis phi_by_values : by_values phi.
Hypothesis J_by_values : forall x y, x =1 y -> J x =2 J y.

(* Phi is phi on polynomials: phi (z + dz 'X) = phi z + J z dz 'X to first order. *)
Definition lifts (Phi : ('I_N -> {poly R}) -> 'I_N -> {poly R}) :=
  forall z m, (Phi z m)`_0 = phi (fun i => (z i)`_0) m /\
              (Phi z m)`_1 = \sum_i J (fun i => (z i)`_0) m i * (z i)`_1.

Theorem lift_exists : exists2 Phi, lifts Phi & by_values Phi.
Proof.
exists (fun z m => (phi (fun i => (z i)`_0) m)%:P + (\sum_i J (fun i => (z i)`_0) m i * (z i)`_1)%:P * 'X).
  by move=> z m; rewrite !coefD !coefC !coefCM !coefX !mulr0 !mulr1 !addr0 add0r.
move=> x y E m; congr (_%:P + _%:P * _); first by apply: phi_by_values => i; rewrite E.
by apply: eq_bigr => i _; rewrite E; congr (_ * _); apply: J_by_values => j; rewrite E.
Qed.
End Lift.

Section Gradient.
Variables (R : comRingType) (N d : nat) (s : R).
Variables (phi : ('I_N -> R) -> 'I_N -> R) (J : ('I_N -> R) -> 'I_N -> 'I_N -> R).
Hypothesis phi_by_values : by_values phi.
Hypothesis J_by_values : forall x y, x =1 y -> J x =2 J y.
Variable Phi : ('I_N -> {poly R}) -> 'I_N -> {poly R}.
Hypotheses (Phi_lifts : lifts phi J Phi) (Phi_by_values : by_values Phi).
Variables (G Q K V : 'M[R]_(N, d)) (Bias : 'M[R]_N).
Local Notation constant := (map_mx polyC).

(* Numbers whose gradients by the output are G, of the two forms. *)
Definition loss (Qx Kx Vx : 'M[{poly R}]_(N, d)) : {poly R} :=
  \sum_n \sum_k (G n k)%:P * attention s%:P Phi Qx Kx Vx (constant Bias) n k.
Definition loss_conv (Qx Kx Vx : 'M[{poly R}]_(N, d)) : {poly R} :=
  \sum_n \sum_k (G n k)%:P *
    attention_conv s%:P Phi (fun n => Qx n) (fun n => Kx n) (fun n => Vx n) (fun n => constant Bias n) n k.

(* 12a-c. The losses of both forms are the same function, so that all their derivatives are. *)
Theorem losses_agree Qx Kx Vx :
  loss_conv Qx Kx Vx = loss Qx Kx Vx.
Proof.
by apply: eq_bigr => n _; apply: eq_bigr => k _; rewrite attention_is_two_convs.
Qed.

Definition logit (n m : 'I_N) : R := s * (\sum_a Q n a * K m a) + Bias n m.
Definition weights (n m : 'I_N) : R := phi (logit n) m.
Definition logit_gradient (n m : 'I_N) : R := \sum_p J (logit n) p m * (\sum_k G n k * V p k).

Lemma attention_tangent (dQ dK dV : 'M[R]_(N, d)) n k :
  (attention s%:P Phi (curve Q dQ) (curve K dK) (curve V dV) (constant Bias) n k)`_1 =
  \sum_m weights n m * dV m k
    + \sum_m (\sum_p J (logit n) m p * (s * \sum_a (Q n a * dK p a + dQ n a * K p a))) * V m k.
Proof.
rewrite mxE coef_sum -big_split; apply: eq_bigr => m _ /=; rewrite coef1M curve0 curve1 mxE.
pose z j := (s%:P *: (curve Q dQ *m (curve K dK)^T) + constant Bias) n j.
have z0 j : (z j)`_0 = logit n j.
  rewrite /z !mxE coefD coefC coefCM coef_sum; congr (_ * _ + _); apply: eq_bigr => a _.
  by rewrite coef0M [in X in _ * X]mxE !curve0.
have z1 j : (z j)`_1 = s * \sum_a (Q n a * dK j a + dQ n a * K j a).
  rewrite /z !mxE coefD coefC coefCM coef_sum addr0; congr (_ * _); apply: eq_bigr => a _.
  by rewrite coef1M [in X in _ * X + _]mxE [in X in _ + _ * X]mxE !curve0 !curve1.
have [-> ->] := Phi_lifts z m; congr (_ * _ + _ * _); first exact: phi_by_values.
by apply: eq_bigr => p _; rewrite z1; congr (_ * _); apply: J_by_values.
Qed.

Lemma loss_tangent (dQ dK dV : 'M[R]_(N, d)) :
  (loss (curve Q dQ) (curve K dK) (curve V dV))`_1 =
  \sum_n \sum_m (weights n m * \sum_k G n k * dV m k)
    + \sum_n \sum_p logit_gradient n p * (s * \sum_a (Q n a * dK p a + dQ n a * K p a)).
Proof.
rewrite coef_sum -big_split; apply: eq_bigr => n _ /=; rewrite coef_sum.
under eq_bigr do rewrite coefCM attention_tangent mulrDr; rewrite big_split; congr (_ + _) => /=.
  under eq_bigr do rewrite big_distrr /=; rewrite exchange_big; apply: eq_bigr => m _ /=.
  by rewrite big_distrr; apply: eq_bigr => k _; rewrite /= mulrCA.
pose D p := s * \sum_a (Q n a * dK p a + dQ n a * K p a).
transitivity (\sum_k \sum_m \sum_p G n k * (J (logit n) m p * D p * V m k)).
  by apply: eq_bigr => k _; rewrite big_distrr; apply: eq_bigr => m _; rewrite /= big_distrl big_distrr.
transitivity (\sum_p \sum_m \sum_k G n k * (J (logit n) m p * D p * V m k)).
  by rewrite exchange_big /= [RHS]exchange_big; apply: eq_bigr => m _; rewrite exchange_big.
apply: eq_bigr => p _; rewrite -/(D p).
rewrite big_distrl; apply: eq_bigr => m _ /=; rewrite big_distrr big_distrl; apply: eq_bigr => k _ /=.
by rewrite mulrCA mulrAC -!mulrA; congr (_ * _); rewrite mulrCA; congr (_ * _); rewrite mulrC mulrA.
Qed.

(* 12a. By the values: the transposed convolution, weights^T G. *)
Theorem gradient_by_values dV :
  (loss (curve Q 0) (curve K 0) (curve V dV))`_1 = \sum_m \sum_k dV m k * (\sum_n weights n m * G n k).
Proof.
rewrite loss_tangent [X in _ + X]big1 ?addr0 => [|n _]; last first.
  by apply: big1 => p _; rewrite big1 ?mulr0 // => a _; rewrite !mxE mulr0 mul0r addr0.
rewrite exchange_big; apply: eq_bigr => m _ /=; under eq_bigr do rewrite big_distrr /=.
rewrite exchange_big; apply: eq_bigr => k _ /=; rewrite big_distrr; apply: eq_bigr => n _ /=.
by rewrite mulrA mulrC.
Qed.

(* 12b. By the keys: the gradient by the logits, transposed, times the queries. *)
Theorem gradient_by_keys dK :
  (loss (curve Q 0) (curve K dK) (curve V 0))`_1 =
  \sum_m \sum_k dK m k * (s * \sum_n logit_gradient n m * Q n k).
Proof.
rewrite loss_tangent [X in X + _]big1 ?add0r => [|n _]; last first.
  by apply: big1 => m _; rewrite big1 ?mulr0 // => k _; rewrite mxE mulr0.
rewrite exchange_big; apply: eq_bigr => m _ /=.
under eq_bigr do rewrite !big_distrr /=; rewrite exchange_big; apply: eq_bigr => k _ /=.
rewrite !big_distrr; apply: eq_bigr => n _ /=; rewrite mxE mul0r addr0.
by rewrite mulrCA [RHS]mulrCA; congr (_ * _); rewrite [RHS]mulrCA; congr (_ * _); apply: mulrC.
Qed.

(* 12c. By the queries: the gradient by the logits times the keys. *)
Theorem gradient_by_queries dQ :
  (loss (curve Q dQ) (curve K 0) (curve V 0))`_1 =
  \sum_n \sum_k dQ n k * (s * \sum_m logit_gradient n m * K m k).
Proof.
rewrite loss_tangent [X in X + _]big1 ?add0r => [|n _]; last first.
  by apply: big1 => m _; rewrite big1 ?mulr0 // => k _; rewrite mxE mulr0.
apply: eq_bigr => n _ /=; under eq_bigr do rewrite !big_distrr /=.
rewrite exchange_big; apply: eq_bigr => k _ /=.
rewrite !big_distrr; apply: eq_bigr => m _ /=; rewrite mxE mulr0 add0r.
by rewrite mulrCA [RHS]mulrCA; congr (_ * _); rewrite mulrCA.
Qed.
End Gradient.

Section Linear.
Variables (R : comRingType) (N C O : nat) (X : 'M[R]_(N, C)) (W : 'M[R]_(C, O)) (b : 'rV[R]_O) (H : 'M[R]_(N, O)).
Local Notation constant := (map_mx polyC).

(* Numbers whose gradients by the output are H, of a linear layer and of a static 1x1 convolution. *)
Definition linear_loss (Wx : 'M[{poly R}]_(C, O)) (bx : 'rV[{poly R}]_O) : {poly R} :=
  \sum_n \sum_o (H n o)%:P * linear_layer (constant X) Wx bx n o.
Definition static_loss (Wx : 'M[{poly R}]_(C, O)) (bx : 'rV[{poly R}]_O) : {poly R} :=
  \sum_n \sum_o (H n o)%:P * static (fun c o => Wx c o) (fun o => bx 0 o) (fun n => constant X n) n o.

(* 12d, 12e. Both are the same function. *)
Theorem linear_losses_agree Wx bx :
  static_loss Wx bx = linear_loss Wx bx.
Proof.
by apply: eq_bigr => n _; apply: eq_bigr => o _; rewrite linear_layerE.
Qed.

Lemma linear_tangent (dW : 'M[R]_(C, O)) (db : 'rV[R]_O) :
  (linear_loss (curve W dW) (curve b db))`_1 =
  \sum_n \sum_o H n o * (\sum_c X n c * dW c o + db 0 o).
Proof.
rewrite coef_sum; apply: eq_bigr => n _; rewrite coef_sum; apply: eq_bigr => o _.
rewrite coefCM linear_layerE coefD curve1 coef_sum; congr (_ * (_ + _)); apply: eq_bigr => c _.
by rewrite mxE coefCM curve1.
Qed.

(* 12d. By the weight: X^T H. *)
Theorem gradient_by_weight dW :
  (linear_loss (curve W dW) (curve b 0))`_1 = \sum_c \sum_o dW c o * (X^T *m H) c o.
Proof.
rewrite linear_tangent exchange_big [RHS]exchange_big; apply: eq_bigr => o _ /=.
under eq_bigr do rewrite mxE addr0 big_distrr /=; rewrite exchange_big; apply: eq_bigr => c _ /=.
by rewrite mxE big_distrr; apply: eq_bigr => n _; rewrite /= mxE mulrA mulrC [H n o * _]mulrC.
Qed.

(* 12e. By the bias: the sum of H over the tokens. *)
Theorem gradient_by_bias db :
  (linear_loss (curve W 0) (curve b db))`_1 = \sum_o db 0 o * (\sum_n H n o).
Proof.
rewrite linear_tangent exchange_big; apply: eq_bigr => o _ /=; rewrite big_distrr; apply: eq_bigr => n _ /=.
by rewrite big1 ?add0r 1?mulrC // => c _; rewrite mxE mulr0.
Qed.
End Linear.
