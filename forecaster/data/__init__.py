"""Data: files to canonical frames, what is wrong with them, regular series, calendar features.

schema    a CSV or Parquet file, or a frame   -> canonical frame (unique_id, ds, y, covariates)
columns   one column of an input              -> one column of the canonical frame
files     a path or a glob                    -> files, and of which kind each is
dataset   a folder with a manifest            -> the rows that the manifest lists
report    canonical frame                     -> what is wrong or noteworthy, with examples
windows   canonical frame                     -> regular series with NaN for missing values, and the known future
features  time stamps                         -> calendar features of the model
datasets  the bundled New York airport weather
"""
