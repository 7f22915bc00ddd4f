"""Models in MLflow: logged, registered, given an alias, found, loaded again; and the rule of who is champion.

Knows bundles and MLflow; knows nothing of how a model is trained or served. Read `registry` first; `aliases` is the
order in which a champion changes, `rule` what it has to hold, `pyfunc_model` what is copied beside every version.
"""
