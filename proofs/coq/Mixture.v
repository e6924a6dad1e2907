(* Family 8: D-Conv: convolving with a mixed kernel is mixing the convolutions, and a product with unfolded patches.

   read y (u, v) is the pixel that tap (u, v) reads at location y: any map, such as rows and columns
   stride*y + dilation*u - padding of an image that is 0 outside. *)
Require Import Common Facts.
Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Import GRing.Theory.
Local Open Scope ring_scope.

Section Mixture.
Variables (R : comRingType) (Location Pixel : Type) (T C : nat) (read : Location -> 'I_T * 'I_T -> Pixel).
Variable image : 'I_C -> Pixel -> R.

Definition convolve (O : Type) (kernel : O -> 'I_C -> 'I_T * 'I_T -> R) (y : Location) (o : O) : R :=
  \sum_c \sum_u \sum_v kernel o c (u, v) * image c (read y (u, v)).

(* 8a. Convolving with the mixture of kernels (and biases) is mixing the convolutions. *)
Theorem mixing_kernels_is_mixing_convs (O : Type) (M : finType) (pi : M -> R)
    (bank : M -> O -> 'I_C -> 'I_T * 'I_T -> R) (bias : M -> O -> R) y o :
  \sum_q pi q * (convolve (bank q) y o + bias q o) =
  convolve (fun o c t => \sum_q pi q * bank q o c t) y o + \sum_q pi q * bias q o.
Proof.
under eq_bigr do rewrite mulrDr; rewrite big_split; congr (_ + _) => /=.
under eq_bigr do rewrite big_distrr /=; rewrite exchange_big; apply: eq_bigr => c _ /=.
under eq_bigr do rewrite big_distrr /=; rewrite exchange_big; apply: eq_bigr => u _ /=.
under eq_bigr do rewrite big_distrr /=; rewrite exchange_big; apply: eq_bigr => v _ /=.
by rewrite big_distrl; apply: eq_bigr => q _ /=; rewrite mulrA.
Qed.

(* Row (c, u, v) of the unfolded image and column (c, u, v) of the kernel's matrix are number c*T*T + u*T + v. *)
Definition unfolded (L : nat) (at_ : 'I_L -> Location) : 'M[R]_(C * (T * T), L) :=
  \matrix_(i, y) let c := (uncat i).1 in let tap := uncat (uncat i).2 in image c (read (at_ y) tap).
Definition kernel_matrix (O : nat) (kernel : 'I_O -> 'I_C -> 'I_T * 'I_T -> R) : 'M[R]_(O, C * (T * T)) :=
  \matrix_(o, i) let c := (uncat i).1 in let tap := uncat (uncat i).2 in kernel o c tap.

(* 8b. The convolution is the product of the kernel, as a matrix O x C*T*T, with the unfolded patches. *)
Theorem convolution_is_unfolded_product (O L : nat) (at_ : 'I_L -> Location)
    (kernel : 'I_O -> 'I_C -> 'I_T * 'I_T -> R) y o :
  convolve kernel (at_ y) o = (kernel_matrix kernel *m unfolded at_) o y.
Proof.
rewrite mxE sum_cat; apply: eq_bigr => c _; rewrite sum_cat; apply: eq_bigr => u _; apply: eq_bigr => v _.
by rewrite !mxE !catK.
Qed.
End Mixture.
