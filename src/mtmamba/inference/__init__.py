"""A trained model at work: predictions of files, folders, videos and cameras."""
