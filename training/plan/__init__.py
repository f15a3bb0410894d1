"""The dry run: what a training would hold, need, take and cost."""
