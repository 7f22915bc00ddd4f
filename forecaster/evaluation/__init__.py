"""How good forecasts are: from rolling origins, by the field's scores, beside the naive ones.

Knows models and series; knows nothing of MLflow, of servers or of what a score decides. Read `rolling` first, then
`scores`; `origins` says from where it is forecast, `baselines` against what.
"""

# Registered versions carry a copy of `pyfunc_model` as it was when they were logged: older ones import this name here.
from forecaster.evaluation.rolling import forecast as forecast
