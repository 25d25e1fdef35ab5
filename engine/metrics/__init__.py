"""Images in, `Metric` out: paired and distribution metrics, each with its n and an interval."""
