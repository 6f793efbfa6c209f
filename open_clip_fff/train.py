"""`python -m open_clip_fff.train`: OpenCLIP's training with every one of its flags, and ours.

python -m open_clip_fff.train --method fff --captions-per-image 5 --json-text-key captions ... (OpenCLIP's flags)
"""

import sys
import traceback
from collections.abc import Sequence

from open_clip_fff.commands.program import prepare_process, print_page
from open_clip_fff.errors import OneRankError, ReportedError, UsageError, error_message, is_first_rank


def main(argv: Sequence[str] | None = None) -> int:
    """Trains with these flags, by default those of the command line.

    Returns:
        0; 2 for a UsageError, a mistake in flags or data most often, which is printed in one line; 128 plus the
        signal's number where SIGTERM, Ctrl-C, SIGHUP or SIGUSR1 ended training with a checkpoint, or Ctrl-C without
        one. Any other error stays an exception.
    """
    # only what trains imports OpenCLIP's loop; torch is imported once the flags make sense
    from open_clip_fff.config.command_line import help_fff, help_text
    from open_clip_fff.host.command import launched_rank, read_command

    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_process()
    try:
        if {"-h", "--help", "--help-fff"} & set(argv):
            print_page(help_fff() if "--help-fff" in argv else help_text())
            return 0
        command = read_command(argv)
        from open_clip_fff.host.generation import check_generation

        check_generation()  # before what imports names that another OpenCLIP may not have
        from open_clip_fff.host.run import run

        return run(command)
    except UsageError as error:
        if "--debug" in argv:  # OpenCLIP's flag for all that may help
            traceback.print_exc()
        if isinstance(error, OneRankError) or (launched_rank() == 0 and not isinstance(error, ReportedError)):
            line = " ".join(error_message(error).split())  # quoted messages of libraries may have several lines
            print(f"open_clip_fff.train: error: {line}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        if is_first_rank():
            print("open_clip_fff.train: interrupted; what is not saved yet is lost", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
