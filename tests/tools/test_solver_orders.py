"""tools/solver_orders.py: solvers are of the orders that theory gives them, and the picture is drawn."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import solver_orders

ORDERS = {"ddim": 1, "dpmpp_2m": 2, "heun": 2, "unipc": 3, "ddpm": 1, "ddim, noise 0.5": 1, "dpmpp_2m_sde": 2}


def test_errors_fall_with_the_orders_of_theory(tmp_path, capsys):
    options = solver_orders.SolverOrders(tmp_path / "orders.png", (64, 128), samples=16, exact_steps=1000)
    options.run()
    said = {line.split(" order ")[0].strip(): line.split()[-3] for line in capsys.readouterr().out.splitlines()[:-1]}
    found = {name: float(order.rstrip(":")) for name, order in said.items() if name in ORDERS}
    assert found == pytest.approx(ORDERS, abs=0.15)
    assert (tmp_path / "orders.png").is_file()
