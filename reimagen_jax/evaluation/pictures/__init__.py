"""What a model's pictures of any records are worth: features, judges, measures, and the arms that are compared."""
