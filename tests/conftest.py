"""Tests run on few cores beside other work: waiting threads must not burn them."""
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
