"""What frozen features tell: small readers on them, across subjects, beside chance."""
