"""From pictures and captions to records, and from records to batches."""
