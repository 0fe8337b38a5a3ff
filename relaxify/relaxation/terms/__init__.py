"""Terms theta * W x, one file for each kind; a new kind is a file here and a name in this list."""

from relaxify.relaxation.terms.convolution import ConvolutionTerm
from relaxify.relaxation.terms.hooked import HookedTerm
from relaxify.relaxation.terms.intercepted import InterceptingTerm
from relaxify.relaxation.terms.made_kernel import MadeKernelTerm
from relaxify.relaxation.terms.merged import MergedTerm
from relaxify.relaxation.terms.term import Term

KINDS: tuple[type[Term], ...] = (ConvolutionTerm, MadeKernelTerm, InterceptingTerm, MergedTerm, HookedTerm)
"""A site is relaxed by the first kind that takes it."""
