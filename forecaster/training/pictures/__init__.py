"""What people look at in the dashboard: forecasts as fans, results, by matplotlib.

Knows models and series; knows nothing of MLflow. Read `figures` first.
"""
