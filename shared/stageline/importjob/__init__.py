"""Importing a model in a container of a stage image: on a machine without torch, or of a model that is not trusted.

Model code runs there and nowhere else: as a user without privileges, without keys and, unless weights are to be fetched
from a hub, without a network. What it made comes back through Docker, is checked byte by byte, and is uploaded from
here with the administrator's keys. `files` is what goes in, `engine` is Docker, `run` the conversation;
`stageline_stage.importjob` is the other side.
"""
