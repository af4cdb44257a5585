"""The chapters of the primer, one module each; a chapter is imported when it is opened."""
