"""The companion of the paper: its ledger, experiments, figures and the build of the book."""
