"""How loops become machine code, and the arithmetic that the kernels share.

Knows numba and NumPy; knows nothing of models. Read `compiling` first. The kernels lie beside what they compute:
`inputs.normalizer_kernel`, `stepping.step_kernel`, `stepping.decode_kernel`, `conformal_kernel`.
"""
