"""A backbone and few labels -> scores with intervals."""
