(* Family 4: (shifted) window attention selects kernels by index set; roll, partition and mask are not needed.

   tok (b, i) is token i of window b after roll and partition, (win n, pos n) the way back: any bijection. That Swin's
   own is one, in two dimensions and for every shift, is proved in Facts.v (swin_tokK, swin_placeK). *)
Require Import Common Facts Softmax.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Window.
Variables (R : comRingType) (Token Win Place : finType) (d : nat).
Variables (tok : Win * Place -> Token) (place : Token -> Win * Place).
Hypotheses (tokK : cancel tok place) (placeK : cancel place tok).
Local Notation win n := (place n).1.
Local Notation pos n := (place n).2.

(* Kernels of other windows have weight 0: a sum over all kernels becomes one over those of the window. *)
Theorem window_sum (f : Token -> R) (region : pred Token) n :
  \sum_(m | (win m == win n) && region m) f m = \sum_(j | region (tok (win n, j))) f (tok (win n, j)).
Proof.
transitivity (\sum_(b | b == win n) \sum_(j | region (tok (b, j))) f (tok (b, j))); last by rewrite big_pred1_eq.
rewrite pair_big_dep /= (reindex tok) /=; last by exists place => m _; [apply: tokK | apply: placeK].
by apply: eq_big => [[b j]|[b j] _] //=; rewrite tokK.
Qed.

Variables (s : R) (phi : (Place -> R) -> Place -> R).
Hypothesis phi_by_values : by_values phi.
Variables (q k v : Token -> 'I_d -> R) (Rel : Place -> Place -> R) (Penalty : Win -> Place -> Place -> R).

(* Roll, partition, attend inside window b at place i: all tokens are named by window and place. *)
Definition window_attention (b : Win) (i : Place) (c : 'I_d) : R :=
  \sum_j phi (fun j' => s * (\sum_e q (tok (b, i)) e * k (tok (b, j')) e) + Rel i j' + Penalty b i j') j
         * v (tok (b, j)) c.

(* 4a. It is a pair of dynamic convolutions whose kernels are picked from the bank by index set. *)
Theorem window_is_selection n c :
  window_attention (win n) (pos n) c =
  conv1x1 (fun n => phi (fun j => conv1x1 q (fun n e j => s * k (tok (win n, j)) e) n j
                                  + Rel (pos n) j + Penalty (win n) (pos n) j))
    (fun n j c => v (tok (win n, j)) c) n c.
Proof.
apply: eq_bigr => j _; congr (_ * _); apply: phi_by_values => j'; do 2![congr (_ + _)].
rewrite -surjective_pairing placeK big_distrr; apply: eq_bigr => e _ /=.
by rewrite mulrCA.
Qed.

(* 4c. Without softmax, excluding a kernel is multiplying its activated logit (rho of it) by 0. *)
Theorem window_elementwise (Label : eqType) (region : Token -> Label) (rho : R -> R) n c :
  \sum_m ((win m == win n) && (region m == region n))%:R * rho (s * \sum_e q n e * k m e) * v m c =
  \sum_j (region (tok (win n, j)) == region n)%:R * rho (s * \sum_e q n e * k (tok (win n, j)) e)
         * v (tok (win n, j)) c.
Proof.
have keep (P : pred Token) f : (P f)%:R * rho (s * \sum_e q n e * k f e) * v f c =
    if P f then rho (s * \sum_e q n e * k f e) * v f c else 0.
  by case: (P f); rewrite ?mul1r // !mul0r.
under eq_bigr do rewrite (keep (fun m => (win m == win n) && (region m == region n))).
under [RHS]eq_bigr do rewrite (keep (fun m => region m == region n)).
by rewrite -!big_mkcond (window_sum _ (fun m => region m == region n)).
Qed.
End Window.

(* 4b. Softmax over all kernels, with a logit of -oo outside of the window's part, is softmax over those of the window.
   region tells from which end of the rolled map a token came; its value is arbitrary. *)
Theorem window_softmax (F : fieldType) (e : F -> F) (Token Win Place : finType) (d : nat)
    (tok : Win * Place -> Token) (place : Token -> Win * Place) (Label : eqType) (region : Token -> Label)
    (q k v : Token -> 'I_d -> F) n c :
  cancel tok place -> cancel place tok ->
  let logit m := \sum_a q n a * k m a in
  let own j := tok ((place n).1, j) in
  \sum_m softmax e (masked (fun m => ((place m).1 == (place n).1) && (region m == region n)) logit) m * v m c =
  \sum_j softmax e (masked (fun j => region (own j) == region n) (fun j => logit (own j))) j * v (own j) c.
Proof.
move=> tokK placeK logit own; rewrite !masked_is_selected.
rewrite (window_sum tokK placeK _ (fun m => region m == region n)).
apply: eq_bigr => j _; congr (_ / _ * _).
by rewrite (window_sum tokK placeK _ (fun m => region m == region n)).
Qed.
