# Sourced by the scripts beside it: what depends on how large the story's models are.

# sizes PRESET: size (in the names of runs); flags of l2 pretrain for the story and for an experiment; learning rates, of
# a base model's fine-tuning (chat_lr), of a chat model's (further_lr), of reward models and PPO; and the widths of the
# reward models that are set against one another.
sizes() {
    case $1 in
        nano)
            size= pretrain=(--preset nano --steps 840) experiment=(--steps 200)
            chat_lr=2e-3 further_lr=5e-4 rm_lr=3e-4 ppo_lr=3e-4 widths='32 128'
            ;;
        # Four passes over the text, after which it has little left to teach (Muennighoff et al. 2023), in larger steps.
        small)
            size=-small pretrain=(--preset small --seq-len 512 --batch-tokens 16384 --steps 1280)
            experiment=(--seq-len 256 --batch-tokens 16384 --steps 320) # few documents have more than 512 tokens
            chat_lr=5e-4 further_lr=2e-4 rm_lr=1e-4 ppo_lr=1e-4 widths='64 256'
            ;;
        *) echo "--preset $1: choose nano (2 CPU cores) or small (30 M parameters, a GPU)" >&2; return 2 ;;
    esac
}
