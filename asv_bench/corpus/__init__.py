"""Real jobs, as users write them, beside loky: what they need in memory and in time.

    python -m asv_bench.corpus                         # all, half an hour
    python -m asv_bench.corpus --size small            # X of 5 MB: does it work?
    python -m asv_bench.corpus sgd_frame stack         # these
    python -m asv_bench.corpus --options row_order=any

`tox -e corpus` installs the packages that it needs (group `corpus` of pyproject.toml),
and runs it with the same arguments. ``--publish`` also writes what README.md and
docs/corpus.rst show; the machine should be otherwise idle then.

Each job runs in a fresh process under each backend, with the same data, four workers
and defaults. The figure is committed memory of the process tree at the peak, above that
with X loaded and workers warm, in multiples of X. Results are compared bit for bit.

Packages that were tried, and are not in it (with pandas 3.1, numpy 2.4 and scikit-learn
1.9):

=====================  =================================================================
celer 0.7              gives scikit-learn the parameter n_alphas, which is gone in 1.9
interpret-core 0.7     takes a minute, nearly all of it in the one thread that bins X
pyod's FeatureBagging  fits one model after the other, whatever n_jobs is
sktime 1.2             asks for pandas before 3.1
tsfresh 0.21           starts processes of its own: no backend of joblib is asked
=====================  =================================================================
"""
