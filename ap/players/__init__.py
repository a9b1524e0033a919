"""Language models in the roles of ap/judge/roles.py, and who plays which of them in a run.

Begin with cast.py, which reads the file that --roles names. A player is a model behind a server (endpoint.py, which
reads what comes back by responses.py) or a local checkpoint (checkpoint.py), which answers at a place (place.py); both
offer `ask` and `sample` and keep what was said (kept.py). chat_verifier.py makes a verifier of a player, chat_critic.py
a critic, chat_solver.py a prober, model_teacher.py a teacher, model_author.py an author of expert episodes. serve.py is
a server. From outside use open_cast.
"""
