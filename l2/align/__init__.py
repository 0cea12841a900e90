"""From a base model to a chat model: fine-tuning, reward models, rejection sampling, PPO, Ghost Attention."""
