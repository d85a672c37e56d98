"""Distribution strategy, step functions of the recipes, schedules, checkpoints, the loop."""
