(* What the theorems share: 1x1 convolutions, activations, and sums over numbered pairs.

   A feature map over the locations L with channels C is a function L -> C -> R. A static and a dynamic convolution
   differ in what their kernel may depend on, so the kernel is a function of the location, too.

   Theorems hold for every commutative ring R (a field where something is divided), all sizes and all arrays. *)
From mathcomp Require Export ssreflect ssrfun ssrbool eqtype ssrnat seq div choice fintype tuple finfun bigop.
From mathcomp Require Export fingroup perm ssralg poly zmodp matrix.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

(* A 1x1 convolution: at every location by itself, a sum over the input channels. *)
Definition conv1x1 (R : ringType) (L O : Type) (C : finType) (x : L -> C -> R) (kernel : L -> C -> O -> R) :
    L -> O -> R :=
  fun n o => \sum_c x n c * kernel n c o.

(* A static one: every location has the same kernel, and there is a bias. *)
Definition static (R : ringType) (L O : Type) (C : finType) (W : C -> O -> R) (b : O -> R) (x : L -> C -> R) :
    L -> O -> R :=
  fun n o => conv1x1 x (fun _ => W) n o + b o.

(* An activation is any map of vectors to vectors that depends on the vector's values only, as every program does. *)
Definition by_values (R I : Type) (phi : (I -> R) -> I -> R) := forall f g, f =1 g -> phi f =1 phi g.

(* The activation of every row of a matrix: along the kernel axis. *)
Definition rowwise (R : Type) (N M : nat) (phi : ('I_M -> R) -> 'I_M -> R) (S : 'M[R]_(N, M)) : 'M[R]_(N, M) :=
  \matrix_(n, m) phi (fun j => S n j) m.

(* A linear layer: the same bias in every row. *)
Definition linear_layer (R : ringType) (N C O : nat) (X : 'M[R]_(N, C)) (W : 'M[R]_(C, O)) (b : 'rV[R]_O) :
    'M[R]_(N, O) :=
  X *m W + \matrix_(n < N) b.

(* phi treats all places of a vector alike. *)
Definition equivariant (R : Type) (I : finType) (phi : (I -> R) -> I -> R) :=
  forall (s : {perm I}) f m, phi (fun j => f (s j)) m = phi f (s m).

Lemma linear_layerE (R : ringType) (N C O : nat) (X : 'M[R]_(N, C)) (W : 'M[R]_(C, O)) (b : 'rV[R]_O) n o :
  linear_layer X W b n o = static (fun c o => W c o) (fun o => b 0 o) (fun n => X n) n o.
Proof. by rewrite /linear_layer /static !mxE. Qed.

(* A sum over terms all but one of which are multiplied by 0. *)
Lemma sum_delta (R : ringType) (I : finType) (i : I) (f : I -> R) : \sum_j f j *+ (j == i) = f i.
Proof.
by rewrite (bigD1 i) //= eqxx mulr1n big1 ?addr0 // => j /negbTE->.
Qed.
