"""The trusted side of dagbundle-operator.

Nothing in this package imports, evaluates or unpickles what a tenant wrote: everything that a parser sends
is hostile input until `resources.protocol` and `rollout.content` have bounded and validated it.
"""
