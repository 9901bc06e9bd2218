"""One file a suite: its questions and its grader."""
