(* The facts that the derivations in SymPy assume (equiv/symbolic/facts.py), proved.

   Bijections of indices: channels of heads and taps of a kernel (cat), windows and the places in them (swin_tok);
   division with remainder. The fact Limit is about the reals: see Express.v. Equivariant: Softmax.v. *)
Require Import Common.
From mathcomp Require Import order ssrnum ssrint intdiv.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory Num.Theory.
Local Open Scope ring_scope.

(* Facts HEADS and TAPS: channel c of head g is channel g*d + c; tap (u, v) of T*T is tap u*T + v. *)
Section Numbering.
Variables h d : nat.
Local Open Scope nat_scope.

Lemma cat_lt (g : 'I_h) (c : 'I_d) : g * d + c < h * d.
Proof. by apply: (@leq_trans (g.+1 * d)); rewrite ?leq_mul2r ?ltn_ord ?orbT // mulSn addnC ltn_add2r. Qed.

Lemma some_channel (D : 'I_(h * d)) : 0 < d.
Proof. by case: d D => [|//] [D]; rewrite muln0. Qed.

Lemma head_lt (D : 'I_(h * d)) : D %/ d < h.
Proof. by rewrite ltn_divLR // (some_channel D). Qed.

Definition cat (gc : 'I_h * 'I_d) : 'I_(h * d) := Ordinal (cat_lt gc.1 gc.2).
Definition its_head (D : 'I_(h * d)) : 'I_h := Ordinal (head_lt D).
Definition its_channel (D : 'I_(h * d)) : 'I_d := Ordinal (ltn_pmod D (some_channel D)).
Definition uncat (D : 'I_(h * d)) : 'I_h * 'I_d := (its_head D, its_channel D).

Theorem catK : cancel cat uncat.
Proof.
move=> [g c]; have d_gt0 : 0 < d by apply: leq_ltn_trans (ltn_ord c).
by congr (_, _); apply/val_inj => /=; rewrite ?divnMDl ?divn_small ?addn0 // modnMDl modn_small.
Qed.

Theorem uncatK : cancel uncat cat.
Proof. by move=> D; apply/val_inj => /=; rewrite -divn_eq. Qed.

Theorem head_cat g c : its_head (cat (g, c)) = g.
Proof. by have [] := catK (g, c). Qed.

(* A sum over all channels is one over heads and their channels. *)
Theorem sum_cat (R : ringType) (f : 'I_(h * d) -> R) : (\sum_D f D = \sum_g \sum_c f (cat (g, c)))%R.
Proof.
rewrite pair_bigA /= (reindex cat) /=; last by exists uncat => D _; [apply: catK | apply: uncatK].
by apply: eq_bigr => -[].
Qed.
End Numbering.

(* Fact WINDOWS in one dimension: B*w tokens in a row, rolled by s and cut into B windows of w. *)
Section Roll.
Variables B w s : nat.
Hypotheses (w_gt0 : (0 < w)%N) (B_gt0 : (0 < B)%N) (s_le : (s <= B * w)%N).
Local Open Scope nat_scope.
Let N_gt0 : 0 < B * w. Proof. by rewrite muln_gt0 B_gt0. Qed.

Definition unroll (n : nat) := (n + (B * w - s)) %% (B * w).
Lemma unroll_lt n : unroll n < B * w. Proof. by rewrite ltn_mod. Qed.
Lemma win_lt n : unroll n %/ w < B. Proof. by rewrite ltn_divLR // unroll_lt. Qed.

Definition roll_tok (z : 'I_B * 'I_w) : 'I_(B * w) := Ordinal (ltn_pmod (z.1 * w + z.2 + s) N_gt0).
Definition roll_place (n : 'I_(B * w)) : 'I_B * 'I_w := (Ordinal (win_lt n), Ordinal (ltn_pmod (unroll n) w_gt0)).

Theorem roll_tokK : cancel roll_tok roll_place.
Proof.
move=> [b i]; have E : unroll ((b * w + i + s) %% (B * w)) = b * w + i.
  by rewrite /unroll modnDml -addnA subnKC // modnDr modn_small // cat_lt.
congr (_, _); apply/val_inj => /=; rewrite E; first by rewrite divnMDl // divn_small ?addn0.
by rewrite modnMDl modn_small.
Qed.

Theorem roll_placeK : cancel roll_place roll_tok.
Proof.
move=> n; apply/val_inj => /=.
by rewrite -divn_eq /unroll modnDml -addnA subnK // modnDr modn_small.
Qed.
End Roll.

(* Two such maps side by side: rows and columns are rolled and cut separately. *)
Section Product.
Variables (T1 W1 P1 T2 W2 P2 : Type) (tok1 : W1 * P1 -> T1) (tok2 : W2 * P2 -> T2).
Variables (place1 : T1 -> W1 * P1) (place2 : T2 -> W2 * P2).
Definition tok2d (z : (W1 * W2) * (P1 * P2)) : T1 * T2 := (tok1 (z.1.1, z.2.1), tok2 (z.1.2, z.2.2)).
Definition place2d (n : T1 * T2) : (W1 * W2) * (P1 * P2) :=
  (((place1 n.1).1, (place2 n.2).1), ((place1 n.1).2, (place2 n.2).2)).

Lemma tok2dK : cancel tok1 place1 -> cancel tok2 place2 -> cancel tok2d place2d.
Proof. by move=> K1 K2 [[b1 b2] [i1 i2]]; rewrite /place2d /tok2d /= K1 K2. Qed.

Lemma place2dK : cancel place1 tok1 -> cancel place2 tok2 -> cancel place2d tok2d.
Proof. by move=> K1 K2 [y x]; rewrite /place2d /tok2d /= -!surjective_pairing K1 K2. Qed.
End Product.

(* Fact WINDOWS in two dimensions, with tokens, windows and places in a window numbered row by row, as Swin does. *)
Section Swin.
Variables B1 w1 s1 B2 w2 s2 : nat.
Hypotheses (w1_gt0 : (0 < w1)%N) (B1_gt0 : (0 < B1)%N) (s1_le : (s1 <= B1 * w1)%N).
Hypotheses (w2_gt0 : (0 < w2)%N) (B2_gt0 : (0 < B2)%N) (s2_le : (s2 <= B2 * w2)%N).

Definition swin_tok (z : 'I_(B1 * B2) * 'I_(w1 * w2)) : 'I_((B1 * w1) * (B2 * w2)) :=
  cat (tok2d (roll_tok s1 w1_gt0 B1_gt0) (roll_tok s2 w2_gt0 B2_gt0) (uncat z.1, uncat z.2)).

Definition swin_place (n : 'I_((B1 * w1) * (B2 * w2))) : 'I_(B1 * B2) * 'I_(w1 * w2) :=
  let z := place2d (roll_place s1 w1_gt0 B1_gt0) (roll_place s2 w2_gt0 B2_gt0) (uncat n) in (cat z.1, cat z.2).

Theorem swin_tokK : cancel swin_tok swin_place.
Proof.
move=> [b i]; rewrite /swin_place /swin_tok catK tok2dK; try exact: roll_tokK.
by congr (_, _); apply: uncatK.
Qed.

Theorem swin_placeK : cancel swin_place swin_tok.
Proof.
move=> n; rewrite /swin_place /swin_tok; set z := place2d _ _ _.
rewrite -[(_, _).1]/(cat z.1) -[(_, _).2]/(cat z.2) !catK -surjective_pairing.
by rewrite place2dK ?uncatK //; apply: roll_placeK.
Qed.
End Swin.

(* Fact Division: every integer e is P*s + p with 0 <= p < P in exactly one way. *)
Theorem division (P : nat) (e : int) : (0 < P)%N -> exists! sp : int * 'I_P, e = P%:Z * sp.1 + sp.2%:Z.
Proof.
move=> P_gt0; have P_pos : (0 < P%:Z)%R by rewrite ltz_nat.
have := divz_eq e P; have := ltz_pmod e P_pos; have := modz_ge0 e (lt0r_neq0 P_pos).
case: (e %% P)%Z => // r _; rewrite ltz_nat => r_lt eE.
exists ((e %/ P)%Z, Ordinal r_lt); split=> [|[s p]] /=; first by rewrite mulrC.
move=> E; have p_small : (0 <= p%:Z < P%:Z)%R by rewrite lez_nat /= ltz_nat ltn_ord.
have sE : (e %/ P)%Z = s by rewrite E mulrC divzMDl ?divz_small ?addr0 // lt0r_neq0.
congr (_, _) => //; apply/val_inj => /=; move: eE; rewrite sE E mulrC => /addrI.
by case.
Qed.
