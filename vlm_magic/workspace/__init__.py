"""What is resident in this kernel: models by name, conversations by name, and the cell that runs.

One `Workspace` stands behind the magics and behind `vlm_magic.load`, `vlm_magic.engine` and
`vlm_magic.session`, so that cells and plain Python share models and conversations. It knows nothing of
IPython: the shell tells it when cells begin and end. Begin with `conversations`, which decides where a
call's turn belongs; `residents` keeps the models, `running_cell` counts calls, `restoring` reads saved
notebooks.
"""

from vlm_magic.workspace.conversations import MAIN, Conversations
from vlm_magic.workspace.residents import Residents
from vlm_magic.workspace.restoring import Restored, restore
from vlm_magic.workspace.running_cell import RunningCell

__all__ = ["MAIN", "Restored", "Workspace", "current", "restore"]


class Workspace:
    """The models and conversations of one kernel.

    Attributes:
        models: the engines by name.
        conversations: the sessions by name of their conversation.
        cell: the cell that runs.
    """

    def __init__(self) -> None:
        self.models = Residents()
        self.conversations = Conversations(self.models)
        self.cell = RunningCell()

    def end_cell(self, *, succeeded: bool) -> None:
        """The running cell has ended; turns of calls that it no longer makes are dropped.

        Not after a failure or an interrupt: the calls that were not reached are not gone.
        """
        cell_id, n_calls = self.cell.end()
        if cell_id is not None and succeeded:
            self.conversations.drop_calls(cell_id, n_calls)


_current = Workspace()


def current() -> Workspace:
    """The workspace of this kernel."""
    return _current
