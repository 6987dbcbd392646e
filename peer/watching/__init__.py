"""A run on a page that lives: what its peers journal, or publish, as it comes, and again afterwards."""
