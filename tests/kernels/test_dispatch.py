"""What decides between kernels, plain forms and what is exported."""

import torch

from mtmamba.kernels.dispatch import exporting


class Says(torch.nn.Module):
    def forward(self, x):
        return x + float(exporting())


def test_an_export_is_no_compilation():
    """PyTorch says that it exports whatever it compiles: compiled networks had lost the fused scan."""
    x = torch.zeros(1)
    assert torch.export.export(Says(), (x,)).module()(x) == 1
    assert torch.compile(Says(), fullgraph=True, backend="eager")(x) == 0
    assert Says()(x) == 0
