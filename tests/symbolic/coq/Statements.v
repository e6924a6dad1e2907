(* What the theorems of proofs/coq must say, restated in sums and products with as few of their definitions as possible,
   and proved from them alone. A theorem that is missing, says less, or assumes more, fails here. *)
From mathcomp Require Import ssreflect ssrfun ssrbool eqtype ssrnat div seq choice fintype tuple finfun bigop.
From mathcomp Require Import fingroup perm ssralg poly zmodp matrix order ssrnum ssrint.
From Equiv Require Common Facts Linear Attention Softmax Window Linformer Merged Depthwise Mixture Generated Express.
From Equiv Require Gradient.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory Num.Theory.
Local Open Scope ring_scope.

Definition values (R I : Type) (phi : (I -> R) -> I -> R) := forall f g, f =1 g -> phi f =1 phi g.
(* Channel c of head g, tap v of row g: number g*d + c. *)
Notation number g c := (Facts.cat (g, c)).

Lemma fact_cat h d (g : 'I_h) (c : 'I_d) : number g c = (g * d + c)%N :> nat.
Proof. by []. Qed.

Lemma fact_catK h d : cancel (@Facts.cat h d) (fun D => (Facts.its_head D, Facts.its_channel D)) /\
  cancel (fun D => (Facts.its_head D, Facts.its_channel D)) (@Facts.cat h d).
Proof. by split; [apply: Facts.catK | apply: Facts.uncatK]. Qed.

Lemma fact_head h d (D : 'I_(h * d)) : Facts.its_head D = (D %/ d)%N :> nat /\ Facts.its_channel D = (D %% d)%N :> nat.
Proof. by []. Qed.

Lemma fact_swin B1 w1 s1 B2 w2 s2 (w1p : (0 < w1)%N) (B1p : (0 < B1)%N) (w2p : (0 < w2)%N) (B2p : (0 < B2)%N) :
  (s1 <= B1 * w1)%N -> (s2 <= B2 * w2)%N ->
  let tok := Facts.swin_tok s1 s2 w1p B1p w2p B2p in let place := Facts.swin_place s1 s2 w1p B1p w2p B2p in
  cancel tok place /\ cancel place tok.
Proof. by move=> s1_le s2_le; split; [apply: Facts.swin_tokK | apply: Facts.swin_placeK]. Qed.

Lemma fact_swin_tok B1 w1 s1 B2 w2 s2 w1p B1p w2p B2p (b1 : 'I_B1) (b2 : 'I_B2) (i1 : 'I_w1) (i2 : 'I_w2) :
  @Facts.swin_tok B1 w1 s1 B2 w2 s2 w1p B1p w2p B2p (number b1 b2, number i1 i2) =
  ((b1 * w1 + i1 + s1) %% (B1 * w1) * (B2 * w2) + (b2 * w2 + i2 + s2) %% (B2 * w2))%N :> nat.
Proof. by rewrite /Facts.swin_tok !Facts.catK. Qed.

Lemma fact_division (P : nat) (e : int) :
  (0 < P)%N -> exists! sp : int * 'I_P, e = P%:Z * sp.1 + sp.2%:Z.
Proof. exact: Facts.division. Qed.

Lemma s1a (R : comRingType) N C O (token : nat -> nat -> 'I_N) (X : 'M[R]_(N, C)) (W : 'M_(C, O)) (b : 'rV_O) y x o :
  (X *m W) (token y x) o + b 0 o = \sum_(u < 1) \sum_(v < 1) \sum_c X (token (y + u)%N (x + v)%N) c * W c o + b 0 o.
Proof. by rewrite -Linear.linear_is_conv !mxE. Qed.

Lemma s1b (R : comRingType) N C O P (X : 'M[R]_(N, C)) (W : 'M_(C, O)) (b : 'rV_O) (W2 : 'M_(O, P)) (b2 : 'rV_P) n p :
  \sum_o (\sum_c X n c * W c o + b 0 o) * W2 o p + b2 0 p = (X *m (W *m W2)) n p + \sum_o b 0 o * W2 o p + b2 0 p.
Proof.
have /matrixP/(_ n p) := Linear.linear_after_linear X W b W2 b2; rewrite !mxE addrA => <-.
by congr (_ + _); apply: eq_bigr => o _; rewrite !mxE.
Qed.

Lemma s1b_conv (R : comRingType) (L : Type) (I J K : finType) (x : L -> I -> R) W (b : J -> R) W2 (b2 : K -> R) n p :
  \sum_o (\sum_c x n c * W c o + b o) * W2 o p + b2 p =
  \sum_c x n c * (\sum_o W c o * W2 o p) + (\sum_o b o * W2 o p + b2 p).
Proof. exact: Linear.static_after_static. Qed.

Lemma s2a (R : comRingType) N d (s : R) (Q K : 'M[R]_(N, d)) n m :
  (s *: (Q *m K^T)) n m = \sum_k Q n k * (s * K m k).
Proof. exact: Attention.query_key_is_conv. Qed.

Lemma s3a (R : comRingType) N d (A : 'M[R]_N) (V : 'M[R]_(N, d)) n k :
  (A *m V) n k = \sum_m A n m * V m k.
Proof. exact: Attention.attention_value_is_conv. Qed.

Lemma s3b (R : comRingType) N d (s : R) (phi : ('I_N -> R) -> 'I_N -> R) (Q K V : 'M[R]_(N, d)) (Bias : 'M_N) n k :
  values phi ->
  ((\matrix_(n, m) phi (fun j => (s *: (Q *m K^T) + Bias) n j) m) *m V) n k =
  \sum_m phi (fun j => \sum_a Q n a * (s * K j a) + Bias n j) m * V m k.
Proof. by move=> ext; apply: (Attention.attention_is_two_convs _ ext). Qed.

Lemma s3c (R : comRingType) N C O d h (s : R) (phi : ('I_N -> R) -> 'I_N -> R) (X : 'M[R]_(N, C))
    (Wq Wk Wv : 'M_(C, h * d)) (bq bk bv : 'rV_(h * d)) (Rel : 'I_h -> 'M[R]_N) (Wo : 'M_(h * d, O)) (bo : 'rV_O) n o :
  values phi ->
  let project (W : 'M_(C, h * d)) (b : 'rV_(h * d)) := X *m W + \matrix_(n < N) b in
  let q := project Wq bq in let k := project Wk bk in let v := project Wv bv in
  let part (Y : 'M_(N, h * d)) g : 'M_(N, d) := \matrix_(n, c) Y n (number g c) in
  let one g := (\matrix_(n, m) phi (fun j => (s *: (part q g *m (part k g)^T) + Rel g) n j) m) *m part v g in
  ((\matrix_(n, D) one (Facts.its_head D) n (Facts.its_channel D)) *m Wo + \matrix_(n < N) bo) n o =
  let conv (W : 'M_(C, h * d)) (b : 'rV_(h * d)) g n e := \sum_c X n c * W c (number g e) + b 0 (number g e) in
  \sum_(gc : 'I_h * 'I_d)
    (\sum_m phi (fun j => \sum_a conv Wq bq gc.1 n a * (s * conv Wk bk gc.1 j a) + Rel gc.1 n j) m
              * conv Wv bv gc.1 m gc.2) * Wo (Facts.cat gc) o + bo 0 o.
Proof. by move=> ext; apply: (Attention.block_is_convs s ext). Qed.

Section Windows.
Variables (Token Win Place : finType) (tok : Win * Place -> Token) (place : Token -> Win * Place).
Hypotheses (tokK : cancel tok place) (placeK : cancel place tok).

Lemma s4a (R : comRingType) d (s : R) (phi : (Place -> R) -> Place -> R) (q k v : Token -> 'I_d -> R)
    Rel Penalty n c :
  values phi ->
  let b := (place n).1 in let i := (place n).2 in
  \sum_j phi (fun j' => s * (\sum_e q (tok (b, i)) e * k (tok (b, j')) e) + Rel i j' + Penalty b i j') j
         * v (tok (b, j)) c =
  \sum_j phi (fun j' => \sum_e q n e * (s * k (tok (b, j')) e) + Rel i j' + Penalty b i j') j * v (tok (b, j)) c.
Proof. by move=> ext; exact (Window.window_is_selection placeK s ext q k v Rel Penalty n c). Qed.

Lemma s4b (F : fieldType) (e : F -> F) d (Label : eqType) (region : Token -> Label) (q k v : Token -> 'I_d -> F) n c :
  let keep m := ((place m).1 == (place n).1) && (region m == region n) in
  let own j := tok ((place n).1, j) in let score m := \sum_a q n a * k m a in
  \sum_(m | keep m) e (score m) / (\sum_(l | keep l) e (score l)) * v m c =
  \sum_(j | region (own j) == region n)
    e (score (own j)) / (\sum_(l | region (own l) == region n) e (score (own l))) * v (own j) c.
Proof.
move=> keep own score; have := Window.window_softmax e region q k v n c tokK placeK.
by rewrite /= !Softmax.masked_is_selected.
Qed.

Lemma s4c (R : comRingType) d (s : R) (Label : eqType) (region : Token -> Label) (rho : R -> R)
    (q k v : Token -> 'I_d -> R) n c :
  let own j := tok ((place n).1, j) in let score m := rho (s * \sum_e q n e * k m e) in
  \sum_m (((place m).1 == (place n).1) && (region m == region n))%:R * score m * v m c =
  \sum_j (region (own j) == region n)%:R * score (own j) * v (own j) c.
Proof. exact (Window.window_elementwise tokK placeK s q k v region rho n c). Qed.

Lemma s7c (F : fieldType) d (Label : eqType) (region : Token -> Label) (q k : Token -> 'I_d -> F) n c :
  let keep m := ((place m).1 == (place n).1) && (region m == region n) in
  let own j := tok ((place n).1, j) in
  q n c * (\sum_(m | keep m) k m c) / (\sum_(m | keep m) 1) =
  q n c * (\sum_(j | region (own j) == region n) k (own j) c) / #|[pred j | region (own j) == region n]|%:R.
Proof. exact (Depthwise.depthwise_in_window region q k n c tokK placeK). Qed.
End Windows.

Lemma s5a (R : comRingType) N M d (s : R) (phi : ('I_M -> R) -> 'I_M -> R) (Q K V : 'M[R]_(N, d))
    (E F : 'M_(M, N)) n k :
  values phi ->
  ((\matrix_(n, p) phi (fun j => (s *: (Q *m (E *m K)^T)) n j) p) *m (F *m V)) n k =
  \sum_p phi (fun p => \sum_a Q n a * (s * \sum_m E p m * K m a)) p * (\sum_m F p m * V m k).
Proof. by move=> ext; apply: (Linformer.linformer_is_soft_selection s ext). Qed.

Lemma s5b (R : comRingType) N M d (s : R) (phi : ('I_M -> R) -> 'I_M -> R) (Q K V : 'M[R]_(N, d))
    (E F : 'M_(M, N)) n k :
  values phi ->
  ((\matrix_(n, p) phi (fun j => (s *: (Q *m K^T) *m E^T) n j) p) *m (F *m V)) n k =
  \sum_p phi (fun p => \sum_a Q n a * (s * \sum_m E p m * K m a)) p * (\sum_m F p m * V m k).
Proof. by move=> ext; apply: (Linformer.mixing_kernels_is_mixing_logits s ext). Qed.

Lemma s5c (R : comRingType) N M C d (X : 'M[R]_(N, C)) (W : 'M_(C, d)) (b : 'rV_d) (E : 'M_(M, N)) p k :
  \sum_m E p m * ((X *m W) m k + b 0 k) = (E *m X *m W) p k + (\sum_m E p m) * b 0 k.
Proof.
by rewrite -Linformer.mixing_after_projecting mxE; apply: eq_bigr => m _; rewrite /Common.linear_layer !mxE.
Qed.

Lemma s6a (R : comRingType) N d (s : R) (Q K V : 'M[R]_(N, d)) n k :
  (s *: (Q *m K^T) *m V) n k = \sum_a Q n a * (s * \sum_m K m a * V m k).
Proof. exact: Merged.merged_kernel. Qed.

Lemma s6a_outer (R : comRingType) N d (K V : 'M[R]_(N, d)) :
  K^T *m V = \sum_m (row m K)^T *m row m V.
Proof. exact: Merged.merged_kernel_outer. Qed.

Lemma s6b (R : comRingType) N d (s : R) (Q K V : 'M[R]_(N, d)) (Bias : 'M_N) n k :
  ((s *: (Q *m K^T) + Bias) *m V) n k = \sum_a Q n a * (s * \sum_m K m a * V m k) + \sum_m Bias n m * V m k.
Proof. exact: Merged.merged_with_bias. Qed.

Lemma s6c (R : comRingType) d (s : R) (Token Place : finType) (q k v : Token -> 'I_d -> R)
    (token : Token -> Place -> Token) n c :
  \sum_j s * (\sum_a q n a * k (token n j) a) * v (token n j) c =
  \sum_a q n a * (s * \sum_j k (token n j) a * v (token n j) c).
Proof. exact (Merged.merged_in_window s q k v token n c). Qed.

Lemma s7a (R : comRingType) N d (t : R) (q k : 'I_N -> 'I_d -> R) n c :
  t * (\sum_m q n c * k m c) = \sum_a q n a * ((t * \sum_m k m a) *+ (a == c)).
Proof. exact (Depthwise.depthwise_is_conv t q k n c). Qed.

Lemma s7b (R : comRingType) N h d (t : R) (Q K Z : 'M[R]_(N, h * d)) (Rel : 'I_h -> 'M[R]_N) n g k :
  let D := number g k in
  Q n D * (t * \sum_m K m D) + \sum_m Rel (Facts.its_head D) n m * Z m D =
  \sum_a Q n (number g a) * ((t * \sum_m K m (number g a)) *+ (a == k)) + \sum_m Rel g n m * Z m D.
Proof. exact (Depthwise.depthwise_with_bias t Q K Z Rel n g k). Qed.

Lemma s8a (R : comRingType) (Loc Pixel O : Type) T C (read : Loc -> 'I_T * 'I_T -> Pixel) (image : 'I_C -> Pixel -> R)
    (M : finType) (pi : M -> R) (bank : M -> O -> 'I_C -> 'I_T * 'I_T -> R) (bias : M -> O -> R) y o :
  \sum_q pi q * (\sum_c \sum_u \sum_v bank q o c (u, v) * image c (read y (u, v)) + bias q o) =
  \sum_c \sum_u \sum_v (\sum_q pi q * bank q o c (u, v)) * image c (read y (u, v)) + \sum_q pi q * bias q o.
Proof. exact (Mixture.mixing_kernels_is_mixing_convs read image pi bank bias y o). Qed.

Lemma s8b (R : comRingType) (Loc Pixel : Type) T C O L (read : Loc -> 'I_T * 'I_T -> Pixel) (image : 'I_C -> Pixel -> R)
    (at_ : 'I_L -> Loc) (kernel : 'I_O -> 'I_C -> 'I_T * 'I_T -> R) y o :
  let index (i : 'I_(C * (T * T))) := (Facts.its_head i,
    (Facts.its_head (Facts.its_channel i), Facts.its_channel (Facts.its_channel i))) in
  \sum_c \sum_u \sum_v kernel o c (u, v) * image c (read (at_ y) (u, v)) =
  ((\matrix_(o, i) kernel o (index i).1 (index i).2) *m
   (\matrix_(i, y) image (index i).1 (read (at_ y) (index i).2))) o y.
Proof. exact (Mixture.convolution_is_unfolded_product read image at_ kernel y o). Qed.

Lemma s9a (R : comRingType) (Loc Pixel : Type) T (D : finType) (read : Loc -> 'I_T * 'I_T -> Pixel)
    (image : D -> Pixel -> R) (kernel : D -> 'I_(T * T) -> R) y a :
  \sum_t kernel a t * image a (read y (Facts.its_head t, Facts.its_channel t)) =
  \sum_b \sum_u \sum_v kernel a (number u v) * image b (read y (u, v)) *+ (b == a).
Proof. exact (Generated.depthwise_is_unfold_sum read image kernel y a). Qed.

Lemma s9b (R : comRingType) (Loc Pixel : Type) T h d (read : Loc -> 'I_T * 'I_T -> Pixel)
    (image : 'I_(h * d) -> Pixel -> R) (local : 'I_h -> 'I_T * 'I_T -> Loc -> R) y (g : 'I_h) (k : 'I_d) :
  \sum_(t < T * T) local (Facts.its_head (number g k)) (Facts.its_head t, Facts.its_channel t) y
    * image (number g k) (read y (Facts.its_head t, Facts.its_channel t)) =
  \sum_u \sum_v local g (u, v) y * image (number g k) (read y (u, v)).
Proof. exact (Generated.involution_is_unfold_sum read image local y g k). Qed.

Section Exp.
Variables (F : fieldType) (e : F -> F).
Hypothesis eD : forall x y, e (x + y) = e x * e y.

Lemma s10a (I : finType) (x : I -> F) t i :
  e t != 0 -> e (x i + t) / (\sum_j e (x j + t)) = e (x i) / (\sum_j e (x j)).
Proof. exact: (Softmax.softmax_shift eD). Qed.

Lemma s10b (I : finType) (x : I -> F) : \sum_j e (x j) != 0 -> \sum_i e (x i) / (\sum_j e (x j)) = 1.
Proof. exact: (Softmax.softmax_rows (e := e) (x := fun j => Some (x j))). Qed.

Lemma s10c (I : finType) (x : I -> F) (s : {perm I}) i :
  e (x (s i)) / (\sum_j e (x (s j))) = e (x (s i)) / (\sum_j e (x j)).
Proof. exact: (Softmax.softmax_equivariant e (fun j => Some (x j))). Qed.

Lemma s10_mask (I : finType) (keep : pred I) (x v : I -> F) :
  \sum_i (if keep i then e (x i) else 0) / (\sum_j if keep j then e (x j) else 0) * v i =
  \sum_(i | keep i) e (x i) / (\sum_(j | keep j) e (x j)) * v i.
Proof.
rewrite -Softmax.masked_is_selected.
have E i : (if keep i then e (x i) else 0) = Softmax.ebar e (Softmax.masked keep x i).
  by rewrite /Softmax.masked; case: (keep i).
by apply: eq_bigr => i _; rewrite E (eq_bigr _ (fun j _ => E j)).
Qed.
End Exp.

Lemma s10_equivariant (F : fieldType) (e : F -> F) (I : finType) (s : {perm I}) (x : I -> F) i (rho : F -> F) :
  e (x (s i)) / (\sum_j e (x (s j))) = e (x (s i)) / (\sum_j e (x j)) /\
  Common.equivariant (fun (y : I -> F) i => rho (y i)).
Proof. by split; [apply: (Softmax.softmax_is_equivariant e) | apply: Softmax.elementwise_equivariant]. Qed.

Lemma s10d (R : comRingType) N d (s : R) (phi : ('I_N -> R) -> 'I_N -> R) (p : 'S_N) (Q K V : 'M[R]_(N, d)) n k :
  values phi -> (forall (t : 'S_N) f m, phi (fun j => f (t j)) m = phi f (t m)) ->
  \sum_m phi (fun j => s * \sum_a Q (p n) a * K (p j) a) m * V (p m) k =
  \sum_m phi (fun j => s * \sum_a Q (p n) a * K j a) m * V m k.
Proof.
move=> ext sym; have /matrixP/(_ n k) := Softmax.permutation_equivariance s p Q K V ext sym; rewrite !mxE => E.
apply: etrans (etrans E _); apply: eq_bigr => m _; rewrite !mxE; congr (_ * _); apply: ext => j;
  by rewrite !mxE addr0; congr (_ * _); apply: eq_bigr => a _; rewrite !mxE.
Qed.

Lemma s11a (F : fieldType) (e : F -> F) Ny Nx (score : 'I_Ny * 'I_Nx -> F) (v : nat -> nat -> F) q s :
  (forall x, e x != 0) -> (q.1 + s.1 < Ny)%N -> (q.2 + s.2 < Nx)%N ->
  let hit (m : 'I_Ny * 'I_Nx) := (m.1 == q.1 + s.1 :> nat)%N && (m.2 == q.2 + s.2 :> nat)%N in
  \sum_(m | hit m) e (score m) / (\sum_(l | hit l) e (score l)) * v m.1 m.2 = v (q.1 + s.1)%N (q.2 + s.2)%N.
Proof. by move=> nz l1 l2 hit; rewrite -Softmax.masked_is_selected; apply: Express.one_hot_head. Qed.

Lemma s11b (F : fieldType) (e : F -> F) P r M (C O : finType) Ny Nx (image : nat -> nat -> C -> F)
    (kernel : 'I_(r.*2.+1) -> 'I_(r.*2.+1) -> C -> O -> F)
    (score : 'I_(M.*2.+1) * 'I_(M.*2.+1) -> 'I_Ny * 'I_Nx -> F) (q : nat * nat) (p : 'I_P * 'I_P) (o : O) :
  (forall x, e x != 0) -> (0 < P)%N -> (r <= M * P)%N -> (q.1 + M.*2 < Ny)%N -> (q.2 + M.*2 < Nx)%N ->
  let hit (s : 'I_(M.*2.+1) * 'I_(M.*2.+1)) (m : 'I_Ny * 'I_Nx) :=
    (m.1 == q.1 + s.1 :> nat)%N && (m.2 == q.2 + s.2 :> nat)%N in
  \sum_s \sum_(m | hit s m) e (score s m) / (\sum_(l | hit s l) e (score s l)) *
    (\sum_(f : 'I_P * 'I_P * C) image (P * m.1 + f.1.1)%N (P * m.2 + f.1.2)%N f.2 *
      \sum_t kernel t.1 t.2 f.2 o *+ (p.1 + t.1 + (M * P - r) == s.1 * P + f.1.1)%N
                                  *+ (p.2 + t.2 + (M * P - r) == s.2 * P + f.1.2)%N) =
  \sum_t \sum_c kernel t.1 t.2 c o *
    image (P * q.1 + p.1 + t.1 + (M * P - r))%N (P * q.2 + p.2 + t.2 + (M * P - r))%N c.
Proof.
move=> nz P0 reach q1 q2 hit; rewrite -(Express.patches_are_convolved nz P0 reach _ _ score _ _ q1 q2).
by apply: eq_bigr => s _; rewrite Softmax.masked_is_selected.
Qed.

Lemma s11c (F : fieldType) (e : F -> F) (I : finType) (alpha Dy Dx : F) (dy dx : I -> F) m :
  (forall x y, e (x + y) = e x * e y) -> (forall x, e x != 0) ->
  let score l := - alpha * (dy l ^+ 2 + dx l ^+ 2 - (Dy * dy l) *+ 2 - (Dx * dx l) *+ 2) in
  let distance l := - alpha * ((dy l - Dy) ^+ 2 + (dx l - Dx) ^+ 2) in
  e (score m) / (\sum_l e (score l)) = e (distance m) / (\sum_l e (distance l)).
Proof. exact (@Express.quadratic_scores F e I alpha Dy Dx dy dx m). Qed.

Lemma s11d (F : realFieldType) (e : F -> F) M Ny Nx (C O : finType) (X : nat -> nat -> C -> F)
    (kernel : 'I_(M.*2.+1) -> 'I_(M.*2.+1) -> C -> O -> F) (q : nat * nat) (o : O) (eps : F) :
  (forall x y, e (x + y) = e x * e y) -> e 0 = 1 -> (q.1 + M.*2 < Ny)%N -> (q.2 + M.*2 < Nx)%N -> 0 < eps ->
  let dy (l : 'I_Ny * 'I_Nx) : F := l.1%:R - (q.1 + M)%:R in let dx (l : 'I_Ny * 'I_Nx) : F := l.2%:R - (q.2 + M)%:R in
  let score alpha (s : 'I_(M.*2.+1) * 'I_(M.*2.+1)) l := - alpha *
    (dy l ^+ 2 + dx l ^+ 2 - ((s.1%:R - M%:R) * dy l) *+ 2 - ((s.2%:R - M%:R) * dx l) *+ 2) in
  exists2 x0 : F, 0 < x0 & forall alpha, 0 < e (- alpha) < x0 ->
    `|\sum_s \sum_m e (score alpha s m) / (\sum_l e (score alpha s l)) * (\sum_c X m.1 m.2 c * kernel s.1 s.2 c o)
      - \sum_(s : 'I_(M.*2.+1) * 'I_(M.*2.+1)) \sum_c X (q.1 + s.1)%N (q.2 + s.2)%N c * kernel s.1 s.2 c o| < eps.
Proof. by move=> eD e0 q1 q2 pos; apply: (Express.pixels_limit eD e0 X kernel o q1 q2 pos). Qed.

Section Gradients.
Variables (R : comRingType) (N d : nat) (s : R) (phi : ('I_N -> R) -> 'I_N -> R) (J : ('I_N -> R) -> 'I_N -> 'I_N -> R).
Variables (Phi : ('I_N -> {poly R}) -> 'I_N -> {poly R}) (G Q K V : 'M[R]_(N, d)) (Bias : 'M[R]_N).
Hypotheses (ext : values phi) (Jext : forall x y, x =1 y -> J x =2 J y) (Phiext : values Phi).
Hypothesis first_order : forall z m, (Phi z m)`_0 = phi (fun i => (z i)`_0) m /\
  (Phi z m)`_1 = \sum_i J (fun i => (z i)`_0) m i * (z i)`_1.
Let moved (m n : nat) (A dA : 'M[R]_(m, n)) := \matrix_(i, j) ((A i j)%:P + (dA i j)%:P * 'X).
Let matmul (q k v : 'M[{poly R}]_(N, d)) := \sum_n \sum_a (G n a)%:P *
  ((\matrix_(n, m) Phi (fun j => (s%:P *: (q *m k^T) + map_mx polyC Bias) n j) m) *m v) n a.
Let conv (q k v : 'M[{poly R}]_(N, d)) := \sum_n \sum_a (G n a)%:P *
  (\sum_m Phi (fun j => \sum_b q n b * (s%:P * k j b) + map_mx polyC Bias n j) m * v m a).
Let logit n m := s * (\sum_a Q n a * K m a) + Bias n m.
Let dlogit n m := \sum_p J (logit n) p m * (\sum_a G n a * V p a).

Lemma s12_same q k v : conv q k v = matmul q k v.
Proof. exact: (Gradient.losses_agree s Phiext). Qed.
Lemma s12a dV :
  (matmul (moved Q 0) (moved K 0) (moved V dV))`_1 = \sum_m \sum_a dV m a * (\sum_n phi (logit n) m * G n a).
Proof. exact: (Gradient.gradient_by_values s ext Jext first_order). Qed.
Lemma s12b dK :
  (matmul (moved Q 0) (moved K dK) (moved V 0))`_1 = \sum_m \sum_a dK m a * (s * \sum_n dlogit n m * Q n a).
Proof. exact: (Gradient.gradient_by_keys s ext Jext first_order). Qed.
Lemma s12c dQ :
  (matmul (moved Q dQ) (moved K 0) (moved V 0))`_1 = \sum_n \sum_a dQ n a * (s * \sum_m dlogit n m * K m a).
Proof. exact: (Gradient.gradient_by_queries s ext Jext first_order). Qed.
End Gradients.

Lemma s12_lift (R : comRingType) N (phi : ('I_N -> R) -> 'I_N -> R) (J : ('I_N -> R) -> 'I_N -> 'I_N -> R) :
  values phi -> (forall x y, x =1 y -> J x =2 J y) ->
  exists2 Phi : ('I_N -> {poly R}) -> 'I_N -> {poly R},
    (forall z m, (Phi z m)`_0 = phi (fun i => (z i)`_0) m /\
                 (Phi z m)`_1 = \sum_i J (fun i => (z i)`_0) m i * (z i)`_1) & values Phi.
Proof. exact: Gradient.lift_exists. Qed.

Section Linear.
Variables (R : comRingType) (N C O : nat) (X : 'M[R]_(N, C)) (W : 'M[R]_(C, O)) (b : 'rV[R]_O) (H : 'M[R]_(N, O)).
Let moved (m n : nat) (A dA : 'M[R]_(m, n)) := \matrix_(i, j) ((A i j)%:P + (dA i j)%:P * 'X).
Let matmul (w : 'M[{poly R}]_(C, O)) (a : 'rV[{poly R}]_O) :=
  \sum_n \sum_o (H n o)%:P * (map_mx polyC X *m w + \matrix_(n < N) a) n o.
Let conv (w : 'M[{poly R}]_(C, O)) (a : 'rV[{poly R}]_O) :=
  \sum_n \sum_o (H n o)%:P * (\sum_c map_mx polyC X n c * w c o + a 0 o).

Lemma s12de_same w a : conv w a = matmul w a.
Proof. exact: Gradient.linear_losses_agree. Qed.
Lemma s12d dW : (matmul (moved W dW) (moved b 0))`_1 = \sum_c \sum_o dW c o * (X^T *m H) c o.
Proof. exact: Gradient.gradient_by_weight. Qed.
Lemma s12e db : (matmul (moved W 0) (moved b db))`_1 = \sum_o db 0 o * (\sum_n H n o).
Proof. exact: Gradient.gradient_by_bias. Qed.
End Linear.
