(* Family 11: multi-head attention expresses every K x K convolution: exactly on patches, in a limit on pixels.

   K = 2r+1. Indices count from the corner of the padded image, so they are natural numbers. Head s reads at offset s, counted
   from the first head's; e stands for exp, as in Softmax.v. *)
Require Import Common Softmax.
From mathcomp Require Import order ssrnum.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory Num.Theory Order.Theory.
Local Open Scope ring_scope.

(* The kernel (patch or pixel) m of the grid that lies at offset s from location q. *)
Definition at_offset (Ny Nx : nat) (q s : nat * nat) (m : 'I_Ny * 'I_Nx) : bool :=
  (m.1 == q.1 + s.1 :> nat)%N && (m.2 == q.2 + s.2 :> nat)%N.

(* 11a. A head whose relative bias is 0 at one offset and -oo elsewhere reads what lies there, whatever its scores. *)
Theorem one_hot_head (F : fieldType) (e : F -> F) (Ny Nx : nat) (score : 'I_Ny * 'I_Nx -> F) (v : nat -> nat -> F) q s :
  (forall x, e x != 0) -> (q.1 + s.1 < Ny)%N -> (q.2 + s.2 < Nx)%N ->
  \sum_m softmax e (masked (at_offset q s) score) m * v m.1 m.2 = v (q.1 + s.1)%N (q.2 + s.2)%N.
Proof.
move=> nz lt1 lt2; rewrite masked_is_selected.
have keep m : at_offset q s m = pred1 (Ordinal lt1, Ordinal lt2) m by case: m.
by rewrite (eq_bigl _ _ keep) big_pred1_eq (eq_bigl _ _ keep) big_pred1_eq mulfV // mul1r.
Qed.

Section Patches.
Variables (F : fieldType) (e : F -> F) (P r M : nat) (C O : finType).
Hypotheses (e_neq0 : forall x, e x != 0) (P_gt0 : (0 < P)%N) (reach : (r <= M * P)%N).
Local Notation S := (M.*2.+1). (* heads in one dimension *)
Local Notation K := (r.*2.+1). (* taps in one dimension *)
Let off := (M * P - r)%N.      (* where the kernel's first tap lies in the first head's patch *)

Lemma tap_in_heads (p : 'I_P) (t : 'I_K) : ((p + t + off) %/ P < S)%N.
Proof.
rewrite ltn_divLR // /off; have tK : (t <= r.*2)%N by rewrite -ltnS.
have -> : (S * P = P + (M * P + M * P))%N by rewrite -addnn mulSn mulnDl.
apply: (@leq_trans (P + r.*2 + (M * P - r))); first by rewrite ltn_add2r -addSn leq_add.
by rewrite -addnA leq_add2l -addnn -addnA subnKC // leq_add2r.
Qed.

(* Division with remainder: exactly one head s and one pixel p' of its patch meet tap t. *)
Lemma one_head_one_pixel (g : nat -> F) (q : nat) (p : 'I_P) (t : 'I_K) :
  \sum_(s < S) \sum_(p' < P) g (P * (q + s) + p')%N *+ (p + t + off == s * P + p')%N = g (P * q + p + t + off)%N.
Proof.
pose s0 := Ordinal (tap_in_heads p t); pose p0 := Ordinal (ltn_pmod (p + t + off) P_gt0).
rewrite (bigD1 s0) //= (bigD1 p0) //= -divn_eq eqxx mulr1n big1 => [|p' /eqP ne]; last first.
  case: eqP => [E|_]; rewrite ?mulr0n //; case: ne; apply/val_inj => /=.
  by rewrite E modnMDl modn_small.
rewrite addr0 big1 => [|s /eqP ne]; last first.
  apply: big1 => p' _; case: eqP => [E|_]; rewrite ?mulr0n //; case: ne; apply/val_inj => /=.
  by rewrite E divnMDl // divn_small ?addn0.
by rewrite addr0 mulnDr -addnA [(P * (_ %/ _))%N]mulnC -divn_eq !addnA.
Qed.

Variables (Ny Nx : nat) (image : nat -> nat -> C -> F) (kernel : 'I_K -> 'I_K -> C -> O -> F).

(* W_V W_O of head s: from channel c of pixel f of the patch that it reads to channel o of pixel p. *)
Definition head_weight (s : 'I_S * 'I_S) (f : 'I_P * 'I_P * C) (p : 'I_P * 'I_P) (o : O) : F :=
  \sum_(t : 'I_K * 'I_K) kernel t.1 t.2 f.2 o *+ (p.1 + t.1 + off == s.1 * P + f.1.1)%N
                                              *+ (p.2 + t.2 + off == s.2 * P + f.1.2)%N.

Lemma shuffle (A1 A2 B1 B2 D : finType) (g : A1 -> A2 -> B1 -> B2 -> D -> F) :
  \sum_(s : A1 * A2) \sum_(f : B1 * B2 * D) g s.1 s.2 f.1.1 f.1.2 f.2 =
  \sum_c \sum_a1 \sum_b1 \sum_a2 \sum_b2 g a1 a2 b1 b2 c.
Proof.
pose there (z : D * A1 * B1 * A2 * B2) := ((z.1.1.1.2, z.1.2), ((z.1.1.2, z.2), z.1.1.1.1)).
pose back (y : (A1 * A2) * (B1 * B2 * D)) := (y.2.2, y.1.1, y.2.1.1, y.1.2, y.2.1.2).
rewrite !pair_bigA /= (reindex there) //=.
by exists back => [[[[[? ?] ?] ?] ?]|[[? ?] [[? ?] ?]]].
Qed.

(* 11b. Attention over P x P patches with (2M+1)^2 one-hot heads is the convolution of the pixels, if M*P >= r.
   Ny x Nx are the patches of the grid with M rings of padding; q is a patch of the grid without. *)
Theorem patches_are_convolved (score : 'I_S * 'I_S -> 'I_Ny * 'I_Nx -> F) (q : nat * nat) (p : 'I_P * 'I_P) (o : O) :
  (q.1 + M.*2 < Ny)%N -> (q.2 + M.*2 < Nx)%N ->
  \sum_(s : 'I_S * 'I_S) \sum_m softmax e (masked (at_offset q (val s.1, val s.2)) (score s)) m
    * (\sum_(f : 'I_P * 'I_P * C) image (P * m.1 + f.1.1) (P * m.2 + f.1.2) f.2 * head_weight s f p o) =
  \sum_(t : 'I_K * 'I_K) \sum_c
    kernel t.1 t.2 c o * image (P * q.1 + p.1 + t.1 + off) (P * q.2 + p.2 + t.2 + off) c.
Proof.
move=> q1 q2; transitivity (\sum_(s : 'I_S * 'I_S) \sum_(f : 'I_P * 'I_P * C)
    image (P * (q.1 + s.1) + f.1.1) (P * (q.2 + s.2) + f.1.2) f.2 * head_weight s f p o).
  apply: eq_bigr => s _.
  rewrite (one_hot_head _ (fun y x => \sum_(f : 'I_P * 'I_P * C)
    image (P * y + f.1.1) (P * x + f.1.2) f.2 * head_weight s f p o)) //=.
    by apply: leq_ltn_trans q1; rewrite leq_add2l -ltnS.
  by apply: leq_ltn_trans q2; rewrite leq_add2l -ltnS.
(* Pull the taps t out of the heads' matrices. *)
under eq_bigr do (under eq_bigr do rewrite big_distrr /=; rewrite exchange_big /=).
rewrite exchange_big /=; apply: eq_bigr => t _.
rewrite (shuffle (fun (s1 s2 : 'I_S) (p1 p2 : 'I_P) c => image (P * (q.1 + s1) + p1)%N (P * (q.2 + s2) + p2)%N c *
   (kernel t.1 t.2 c o *+ (p.1 + t.1 + off == s1 * P + p1)%N *+ (p.2 + t.2 + off == s2 * P + p2)%N))).
apply: eq_bigr => c _.
pose g a := \sum_(s2 < S) \sum_(p2 < P)
  (kernel t.1 t.2 c o * image a (P * (q.2 + s2) + p2)%N c) *+ (p.2 + t.2 + off == s2 * P + p2)%N.
transitivity (\sum_(s1 < S) \sum_(p1 < P) g (P * (q.1 + s1) + p1)%N *+ (p.1 + t.1 + off == s1 * P + p1)%N).
  apply: eq_bigr => s1 _; apply: eq_bigr => p1 _; rewrite /g -sumrMnl; apply: eq_bigr => s2 _.
  by rewrite -sumrMnl; apply: eq_bigr => p2 _; rewrite !mulrnAr mulrC mulrnAC.
by rewrite one_head_one_pixel /g (one_head_one_pixel (fun b => kernel t.1 t.2 c o * image _ b c)).
Qed.
End Patches.

(* 11c. Cordonnier's quadratic scores v.r with r = (|delta|^2, delta) and v = -alpha (1, -2 Delta) are -alpha times the
   squared distance of delta and Delta, up to a shift of the row, which softmax does not see (10a). *)
Theorem quadratic_scores (F : fieldType) (e : F -> F) (I : finType) (alpha Dy Dx : F) (dy dx : I -> F) m :
  (forall x y, e (x + y) = e x * e y) -> (forall x, e x != 0) ->
  softmax e (fun l => Some (- alpha * (dy l ^+ 2 + dx l ^+ 2 - (Dy * dy l) *+ 2 - (Dx * dx l) *+ 2))) m =
  softmax e (fun l => Some (- alpha * ((dy l - Dy) ^+ 2 + (dx l - Dx) ^+ 2))) m.
Proof.
move=> eD nz.
rewrite -(softmax_shift eD _ _ (nz (- alpha * (Dy ^+ 2 + Dx ^+ 2)))).
apply: softmax_by_values => l; congr Some; rewrite -mulrDr; congr (_ * _).
by rewrite !sqrrB [Dy * _]mulrC [Dx * _]mulrC [RHS]addrACA [X in _ = X + _]addrACA opprD !addrA.
Qed.

(* 11d. The limit alpha -> oo, without analysis: x = e (-alpha) is small and positive, F is any ordered field, and the
   distance of attention to the convolution is at most x times a number that does not depend on alpha. That exp (-alpha)
   comes as near to 0 as one likes is all that is left to the reals. *)
Section Limit.
Variables (F : realFieldType) (e : F -> F).
Hypotheses (eD : forall x y, e (x + y) = e x * e y) (e0 : e 0 = 1).

Lemma near_one_hot (I : finType) (i0 : I) (w v : I -> F) (x : F) :
  0 <= x -> w i0 = 1 -> (forall i, i != i0 -> 0 <= w i <= x) ->
  `|\sum_i w i / (\sum_j w j) * v i - v i0| <= x * \sum_i `|v i - v i0|.
Proof.
move=> x_ge0 w0 wx; set z := \sum_j w j.
have z_ge1 : 1 <= z.
  by rewrite /z (bigD1 i0) //= w0 ler_addl sumr_ge0 // => i /wx /andP[].
have z_gt0 : 0 < z by apply: lt_le_trans z_ge1.
have -> : \sum_i w i / z * v i - v i0 = \sum_i w i / z * (v i - v i0).
  under [RHS]eq_bigr do rewrite mulrBr.
  by rewrite sumrB -big_distrl -big_distrl /= -/z mulfV ?mul1r // gt_eqF.
apply: le_trans (ler_norm_sum _ _ _) _; rewrite mulr_sumr; apply: ler_sum => i _; rewrite normrM.
have [->|/wx /andP[w_ge0 w_le]] := eqVneq i i0; first by rewrite subrr normr0 !mulr0.
apply: ler_wpmul2r => //; rewrite ger0_norm ?divr_ge0 ?(ltW z_gt0) // ler_pdivr_mulr //.
by apply: le_trans w_le _; rewrite ler_pemulr.
Qed.

(* The squared distance of two numbers. *)
Definition sqdist (a b : nat) : nat := ((a - b) + (b - a)) ^ 2.

Lemma sqdistE a b : (a%:R - b%:R : F) ^+ 2 = (sqdist a b)%:R.
Proof.
rewrite /sqdist natrX; case/orP: (leq_total a b) => le; have := le; rewrite -subn_eq0 => /eqP->.
  by rewrite add0n natrB // -sqrrN opprB.
by rewrite addn0 natrB.
Qed.

Lemma sqdist_eq0 a b : (sqdist a b == 0)%N = (a == b).
Proof. by rewrite /sqdist expn_eq0 andbT addn_eq0 !subn_eq0 -eqn_leq. Qed.

Lemma e_power (y : F) (n : nat) : e (y * n%:R) = e y ^+ n.
Proof. by elim: n => [|n IH]; rewrite ?mulr0 // -addn1 natrD mulrDr mulr1 eD IH addn1 exprSr. Qed.

Variables (M Ny Nx : nat) (C O : finType).
Local Notation S := (M.*2.+1). (* heads, and taps, in one dimension *)
Variables (X : nat -> nat -> C -> F) (kernel : 'I_S -> 'I_S -> C -> O -> F).

(* Attention over the pixels of the padded image, for the pixel in row q.1 + M, column q.2 + M: head s has Cordonnier's
   scores for the offset Delta = s - M, and the matrix of one tap. *)
Definition weight (alpha : F) (q : nat * nat) (s : 'I_S * 'I_S) : 'I_Ny * 'I_Nx -> F :=
  let dy (l : 'I_Ny * 'I_Nx) : F := l.1%:R - (q.1 + M)%:R in let Dy : F := s.1%:R - M%:R in
  let dx (l : 'I_Ny * 'I_Nx) : F := l.2%:R - (q.2 + M)%:R in let Dx : F := s.2%:R - M%:R in
  softmax e (fun l => Some (- alpha * (dy l ^+ 2 + dx l ^+ 2 - (Dy * dy l) *+ 2 - (Dx * dx l) *+ 2))).

Definition pixel_attention (alpha : F) (q : nat * nat) (o : O) : F :=
  \sum_(s : 'I_S * 'I_S) \sum_(m : 'I_Ny * 'I_Nx) weight alpha q s m * \sum_c X m.1 m.2 c * kernel s.1 s.2 c o.

Definition pixel_convolution (q : nat * nat) (o : O) : F :=
  \sum_(s : 'I_S * 'I_S) \sum_c X (q.1 + s.1) (q.2 + s.2) c * kernel s.1 s.2 c o.

(* How far the values that a head does not want are from the one that it wants. *)
Definition spread (q : nat * nat) (o : O) : F :=
  \sum_(s : 'I_S * 'I_S) \sum_(m : 'I_Ny * 'I_Nx)
    `|\sum_c X m.1 m.2 c * kernel s.1 s.2 c o - \sum_c X (q.1 + s.1) (q.2 + s.2) c * kernel s.1 s.2 c o|.

Theorem pixels_are_nearly_convolved (alpha : F) (q : nat * nat) (o : O) :
  (q.1 + M.*2 < Ny)%N -> (q.2 + M.*2 < Nx)%N -> 0 < e (- alpha) <= 1 ->
  `|pixel_attention alpha q o - pixel_convolution q o| <= e (- alpha) * spread q o.
Proof.
move=> q1 q2 /andP[x_gt0 x_le1]; set x := e (- alpha) in x_gt0 x_le1 *.
have nz y : e y != 0.
  by apply/eqP => y0; have /eqP := eD y (- y); rewrite subrr e0 y0 mul0r oner_eq0.
rewrite /pixel_attention /pixel_convolution /spread -sumrB mulr_sumr.
apply: le_trans (ler_norm_sum _ _ _) _; apply: ler_sum => s _.
have lt1 : (q.1 + s.1 < Ny)%N by apply: leq_ltn_trans q1; rewrite leq_add2l -ltnS.
have lt2 : (q.2 + s.2 < Nx)%N by apply: leq_ltn_trans q2; rewrite leq_add2l -ltnS.
pose i0 : 'I_Ny * 'I_Nx := (Ordinal lt1, Ordinal lt2).
pose n (m : 'I_Ny * 'I_Nx) := (sqdist m.1 (q.1 + s.1) + sqdist m.2 (q.2 + s.2))%N.
have n_eq0 m : (n m == 0)%N = (m == i0) by rewrite /n addn_eq0 !sqdist_eq0; case: m.
have shift (a b c l : nat) : a%:R - (b + c)%:R - (l%:R - c%:R) = a%:R - (b + l)%:R :> F.
  by rewrite !natrD opprB !opprD -addrA; congr (_ + _); rewrite addrA subrK.
have weightE m : weight alpha q s m = x ^+ n m / \sum_l x ^+ n l.
  apply: etrans (quadratic_scores _ _ _ _ _ _ eD nz) _; rewrite /softmax /=.
  have power (l : 'I_Ny * 'I_Nx) : e (- alpha * ((l.1%:R - (q.1 + M)%:R - (s.1%:R - M%:R)) ^+ 2
      + (l.2%:R - (q.2 + M)%:R - (s.2%:R - M%:R)) ^+ 2)) = x ^+ n l by rewrite !shift !sqdistE -natrD e_power.
  by rewrite power; under eq_bigr do rewrite power.
under [X in `|X - _|]eq_bigr do rewrite weightE.
apply: (@near_one_hot _ i0 (fun m => x ^+ n m) (fun m => \sum_c X m.1 m.2 c * kernel s.1 s.2 c o)).
- exact: ltW.
- by have /eqP-> : (n i0 == 0)%N by rewrite n_eq0.
have x_ge0 := ltW x_gt0; move=> m; rewrite -n_eq0; case: (n m) => // k _.
by rewrite exprn_ge0 //= exprS ler_pimulr // exprn_ile1.
Qed.

Theorem pixels_limit (q : nat * nat) (o : O) (eps : F) :
  (q.1 + M.*2 < Ny)%N -> (q.2 + M.*2 < Nx)%N -> 0 < eps ->
  exists2 x0 : F, 0 < x0 &
    forall alpha, 0 < e (- alpha) < x0 -> `|pixel_attention alpha q o - pixel_convolution q o| < eps.
Proof.
move=> q1 q2 eps_gt0; have B_ge0 : 0 <= spread q o by apply: sumr_ge0 => s _; apply: sumr_ge0.
have B1_gt0 : 0 < spread q o + 1 by apply: ltr_paddl => //; apply: ltr01.
exists (Num.min 1 (eps / (spread q o + 1))); first by rewrite lt_minr ltr01 divr_gt0.
move=> alpha /andP[x_gt0]; rewrite lt_minr => /andP[x_lt1 x_lt].
apply: le_lt_trans (pixels_are_nearly_convolved o q1 q2 _) _; first by rewrite x_gt0 ltW.
apply: (@le_lt_trans _ _ (e (- alpha) * (spread q o + 1))); first by rewrite ler_pmul2l // ler_addl ler01.
by rewrite -ltr_pdivl_mulr.
Qed.
End Limit.
