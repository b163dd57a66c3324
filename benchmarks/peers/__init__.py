"""What people do today instead, written as well as the documentation they follow teaches."""
