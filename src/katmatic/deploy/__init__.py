"""Files that others read: what an application declares, in their language."""
