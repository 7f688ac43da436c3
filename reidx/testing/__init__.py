"""What plugin authors (and reidx's own tests) test with: tiny domains, tiny experiments."""
