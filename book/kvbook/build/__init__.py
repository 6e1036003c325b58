"""How the book is made: environment, execution, pages."""
