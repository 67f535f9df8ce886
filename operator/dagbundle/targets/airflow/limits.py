"""How much Airflow's computations over tenants' documents may cost, in the child that does them (`examiner`)."""

from __future__ import annotations

CPU_SECONDS = 5.0
"""CPU time for one document, its next run included; an ordinary one takes milliseconds."""
ROLLOUT_CPU_SECONDS = 60.0
"""CPU time for the documents of one rollout, besides the next one."""
DOCUMENT_CPU_SECONDS = 0.1
"""What each document of a rollout adds to that: many times what an ordinary one takes."""
TURN_CPU_SECONDS = 2.0
"""CPU time after which another namespace's documents have their turn, once the document at hand is done."""
SLOW_CPU_SECONDS = 0.1
"""A document that takes so much is followed by one at a time, so that few of them are at hand when a turn is over."""
UPKEEP_CPU_SECONDS = 20.0
"""CPU time for the next runs of all bundles in one upkeep, besides the first ones of each namespace."""
UPKEEP_NAMESPACE_CPU_SECONDS = 10.0
"""What one namespace may take of that."""
UPKEEP_BUNDLE_CPU_SECONDS = 5.0
"""What one bundle may take of that."""
WALL_SECONDS = 90.0
"""After that a child that waits for something is ended too, however busy the machine is: before the transaction that
waits for its answer is (the store's `idle_in_transaction_session_timeout`)."""
START_SECONDS = 300.0
"""Until a new child must have imported Airflow, which takes two seconds on an idle machine."""
MEMORY_BYTES = 768 * 1024 * 1024
"""Address space that a document may add to the child's."""
START_CPU_SECONDS = 2.0
"""What a document is charged besides its own time where the child must be replaced after it: importing Airflow."""
GROWN_BYTES = 128 * 1024 * 1024
"""A child that has grown by that between documents is replaced, so that each of them has the memory above."""
MAX_ENDED = 3
"""Documents of one rollout that may end their child; with one more the rollout is blocked."""
MAX_MAPPED = 10_000
"""Times that a task may be mapped by what is written in its document: the scheduler makes them all at once."""
MAX_SAID = 1_000
"""Characters of an error of Airflow's that are shown: it may quote the document."""
MAX_ANSWER_BYTES = 1024 * 1024
"""Of one answer of the child."""
