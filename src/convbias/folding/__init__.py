"""The laws of ``convbias.affine`` on whole networks."""
