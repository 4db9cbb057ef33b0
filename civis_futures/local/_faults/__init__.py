"""What goes wrong when it is told to: the words for it, who meets it, what happens then."""
