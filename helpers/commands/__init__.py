"""What the scripts share: from command line to request, and from result to what is printed and written."""
