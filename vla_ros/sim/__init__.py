"""The table-top arm in MuJoCo, its task and its scripted expert."""
