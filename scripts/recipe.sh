# What run.sh and ablate.sh share: the choices, how they are read, and how a stage is run. It is sourced by them; a program
# names choices of its own in own_choices, after giving them values.
program="$(basename -- "$0")"
scripts="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
stands="$PWD"                # where the user is: --data_root ./x and ../x count from there
cd -- "$scripts/.."
fail() { echo "$program: error: $1" >&2; exit 2; }
usage() { awk 'NR > 1 { if (/^set /) exit; sub(/^# ?/, ""); print }' "$scripts/$program"; echo "Choices and their values here:"
          for name in $choices; do printf '  --%-18s %s\n' "$name" "${!name}"; done; }

# ---- choices -------------------------------------------------------------------------------------------------------
dataset=                     # folder below data/ with train.json and test.json
stage=0                      # first stage to run; given, it is run again even if it was done
stop_stage=8                 # last stage to run
data_root=data               # where data sets live
output_root=output           # where runs live: change it with data_root to keep a trial apart
tag=                         # name of the runs (default: the set's)
nproc=1                      # processes (GPUs) of this machine for the encoder and the generator
nnodes="${NNODES:-1}"        # machines for them: the same command on each, with folders that all of them see
node_rank="${NODE_RANK:-0}"  # number of this machine; machine 0 runs all stages, the others take part in 3 and 5
master_addr="${MASTER_ADDR:-}"                  # address of machine 0
master_port="${MASTER_PORT:-29500}"
wait_for_machines="${WAIT_FOR_MACHINES:-86400}" # seconds: how long a machine waits for the others to come to a training
max_restarts="${MAX_RESTARTS:-3}"               # how often a training with several processes starts again after a crash
seed=0
method=                      # published, improved or modern: what is trained, and how; "": what the set's own choices are
minutes=                     # wall time of both trainings together, data made ready not counted; "": as their settings say
encoder_share=33             # percent of --minutes that the encoder may take
device=auto                  # auto, cpu, cuda
speech=synthesised           # published: the authors' recordings, where there are any; the engine speaks what they lack
speech_archive=              # a copy of their archive that is here already (default: it is downloaded)
published_speech=            # what it is called by scripts/download.py, for sets that have one
engine=baidu                 # speech synthesis; none: the set has recordings; auto: none if its items name any, else hibari
captions_per_image=          # speak and use only the first N captions of each image, or N,M: of training and of test images
speech_options=
teacher=googlenet_caffe
teacher_options=
encoder_options="--epoch 1000 --eval_every 10 --lr_scheduler_step_size 200 --lr_scheduler_gamma 0.5 --loss_diff 1
  --loss_same 0.1 --l1_flag --jel_flag --lambda_l1 5 --distill_flag --lambda_distill 1000 --learning_rate 1e-3
  --bidirectional --rnn_layers 1"
features=                    # name of the speech features (default: the teacher's, or the encoder's where it has none)
encoder_changes=             # added to encoder_options
extract_options=
gan_cfg=StackGAN_v2/cfg/birds_3stages.yml
gan_options=
gan_changes=                 # added to gan_options
sample_options=
evaluate_options=
download=                    # names for scripts/download.py, fetched before the set is made; "": what is there is used
download_extra=              # further names, which the recipe can do without: where they cannot be had it says so and goes on
download_options=            # such as "--keep_archive" or "--registry FILE"
prepare=                     # a Python command that makes the set in data/, if there is one
choices="dataset stage stop_stage data_root output_root tag nproc nnodes node_rank master_addr master_port
  wait_for_machines max_restarts seed method minutes encoder_share device speech speech_archive engine captions_per_image
  speech_options teacher teacher_options encoder_options encoder_changes features extract_options gan_cfg gan_options gan_changes
  sample_options evaluate_options download download_extra download_options prepare ${own_choices-}"

# ---- methods ---------------------------------------------------------------------------------------------------------
# What --method changes: encoder_options, gan_cfg and gan_options, to the values that <method>_… have here or in a set's
# file of choices. Such a file names the set's own_method; one that does not has the published method's choices as they are.
# published: Li et al.'s encoder and losses. improved: the same networks with the losses of cfg/toybirds_3stages.yml.
# modern: an encoder that learns from pairs alone, on a pretrained front end, and a generator for the machine: on GPUs the
# GAN of cfg/birds_modern.yml, on CPUs cfg/toybirds_exemplar.yml.
own_method=
improved_encoder_options= improved_gan_cfg= improved_gan_options=
published_encoder_options="$encoder_options" published_gan_cfg="$gan_cfg" published_gan_options=
modern_encoder_options="--encoder contrastive --front_end speech_embedding"
modern_gan_cfg=StackGAN_v2/cfg/birds_modern.yml modern_gan_options=
use_method() {
    local name value="${1}_gan_cfg"
    [ -n "${!value-}" ] || fail "--method $1: --dataset $dataset has no choices for it; there are published and modern"
    for name in encoder_options gan_cfg gan_options; do
        value="${1}_$name"
        printf -v "$name" '%s' "${!value-}"
    done
}

# ---- options: first the data set, then its file of choices, then everything else -------------------------------------
help=
for ((i = 1; i <= $#; i++)); do
    case "${!i}" in
        --dataset) j=$((i + 1)); dataset="${!j-}" ;;
        --method) j=$((i + 1)); method="${!j-}" ;;
        -h | --help) help=1 ;;
    esac
done
case "$dataset" in *[!A-Za-z0-9_.\ \'-]*) fail "--dataset $dataset is not the name of a folder" ;; esac
recipe_file="$(printf '%s' "$dataset" | tr '[:upper:]' '[:lower:]')"; recipe_file="$scripts/${recipe_file%_subset}.sh"       # Places_subset → places.sh
case "${recipe_file##*/}" in
    run.sh | birds_modern.sh | compare_recipes.sh | ablate.sh | recipe.sh | setup.sh | test.sh | demo.sh | voice.sh) ;;
    *) if [ -f "$recipe_file" ]; then source "$recipe_file"
       else engine=auto teacher=efficientnet_lite0; fi ;;      # a set of the user's: what needs no account and no download
esac
case "$method" in
    '' | published | improved | modern) ;;
    *) fail "--method $method: choose published, improved or modern" ;;
esac
other="_$method"             # another method than the set's own has runs and speech features of its own
[ -n "$method" ] && [ "$method" != "${own_method:-published}" ] || other=
[ -z "${method:-$own_method}" ] || [ "${method:-x}${own_method}" = published ] || use_method "${method:-$own_method}"
[ -z "$help" ] || { usage; exit 0; }
stage_given= tag_given=
while [ $# -gt 0 ]; do
    name="${1#--}"
    case " $(echo $choices) " in *" $name "*) ;; *) fail "unknown option $1 (see $program --help)" ;; esac
    [ "$1" != "$name" ] && [ $# -ge 2 ] || fail "$1 needs a value (see $program --help)"
    [ "$name" = dataset ] || printf -v "$name" '%s' "$2"       # a file of choices may name the folder otherwise
    case "$name:$2" in data_root:./* | data_root:../* | output_root:./* | output_root:../*)
        printf -v "$name" '%s' "$(realpath -ms -- "$stands/$2" 2> /dev/null || echo "$stands/$2")" ;; esac
    [ "$name" != stage ] || stage_given=1
    [ "$name" != tag ] || tag_given=1
    shift 2
done
case "$speech" in
    synthesised) ;;
    published) [ -n "$published_speech" ] || fail "--speech published: no speech was published for --dataset $dataset" ;;
    *) fail "--speech $speech: choose synthesised or published" ;;
esac
[ -z "$speech_archive" ] || [ -f "$speech_archive" ] || fail "--speech_archive $speech_archive does not exist"
[ -z "$speech_archive" ] || [ "$speech" = published ] || fail "--speech_archive goes with --speech published"
[ -n "$dataset" ] || fail "--dataset is missing: the name of a folder below data/"
case "$minutes" in *[!0-9.]* | *.*.* | . | 0) fail "--minutes $minutes is not a number of minutes" ;; esac
case "$encoder_share" in '' | *[!0-9]* | 0* | ???*) fail "--encoder_share $encoder_share is not a percentage below 100" ;; esac
[ -z "$captions_per_image" ] || [ "$engine" != none ] ||
    fail "--captions_per_image $captions_per_image: nothing is spoken for --dataset $dataset, whose recordings are all taken"
for name in stage stop_stage nproc nnodes node_rank master_port wait_for_machines max_restarts seed; do
    case "${!name}" in '' | *[!0-9]*) fail "--$name ${!name} is not a whole number" ;; esac
done
[ "$nnodes" -le 1 ] || [ -n "$master_addr" ] || fail "--master_addr is missing: the address of machine 0 of the $nnodes"
[ "$node_rank" -lt "$nnodes" ] || fail "--node_rank $node_rank is not below --nnodes $nnodes"
export NNODES="$nnodes" WAIT_FOR_MACHINES="$wait_for_machines" MAX_RESTARTS="$max_restarts"
[ "$nnodes" -le 1 ] || export NODE_RANK="$node_rank" MASTER_ADDR="$master_addr" MASTER_PORT="$master_port"

# ---- places --------------------------------------------------------------------------------------------------------
python="$PWD/.venv/bin/python"
if [ ! -x "$python" ]; then        # libraries that are here anyway will do
    if python3 scripts/installed.py 2> /dev/null; then
        python=python3
        export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
    else
        bash scripts/setup.sh
    fi
fi
encoder_options="$encoder_options${encoder_changes:+ $encoder_changes}"
gan_options="$gan_options${gan_changes:+ $gan_changes}"
case "$encoder_options" in *"--front_end speech_embedding"*)       # its weights come in a package for Python ≥ 3.11
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "$program: --front_end log_mel instead of speech_embedding, whose weights need Python 3.11 or newer"
        encoder_options="${encoder_options//--front_end speech_embedding/--front_end log_mel}"
    fi ;;
esac
[ -n "$tag_given" ] || tag="${tag:-$dataset}$other"
case " $(echo $encoder_options) " in    # encoders that learn from images rather than from a teacher's features
    *" --encoder contrastive "*) no_teacher=contrastive ;;
    *" --encoder davenet "*) no_teacher=davenet ;;
    *) no_teacher= ;;
esac
features="${features:-${no_teacher:-$teacher$other}}"
if [ -n "$minutes" ]; then     # as many iterations as there is time for, and at most the encoder's own epochs
    part() { LC_ALL=C awk "BEGIN { printf \"%g\", $minutes * $1 / 100 }"; }
    encoder_options="$encoder_options --max_minutes $(part "$encoder_share")"
    gan_options="$gan_options --max_minutes $(part $((100 - encoder_share))) --set TRAIN.MAX_ITERATIONS=0
      --set TRAIN.MAX_EPOCH=1000000"
fi
data="$data_root/$dataset"
if [ "$engine" = auto ]; then
    engine=hibari
    ! grep -qE '"(audio|wav)": *(\[ *)?"' "$data/train.json" 2> /dev/null || engine=none
fi
recipe="$output_root/$tag"
encoder="$output_root/Audio_to_Image/log/${tag}_speech_encoder"
generator="$output_root/StackGAN_v2/${tag}_speech_encoder"
case "$generator" in /*) gan_name="$generator" ;; *) gan_name="$PWD/$generator" ;; esac
mkdir -p "$recipe"

# One run at a time. The lock is also held by the stage that is at work; if we are killed, it is told to stop.
exec 9> "$recipe/.lock${node_rank#0}"
"$python" scripts/shell_parts.py lock 9 "$program: waiting for another run in $recipe to end"
export FOLLOW_PARENT="$$ SIGTERM"

# A stage is done when its mark holds the command that would be run now and the fingerprint of what it would read, and
# no stage before it was run again. Machines other than 0 read the marks, in the folder that all see, and come to the
# same conclusion; they take part in stages 3 and 5 and write no mark.
renewed=
run_stage() {   # number, name, command …
    local number=$1 name=$2 mark="$recipe/.done_$1" began later state status=0
    shift 2
    [ "$number" -ge "$stage" ] && [ "$number" -le "$stop_stage" ] || return 0
    # how a launcher that waits for the other machines knows that they have finished this stage without it
    export STAGE_MARK="$mark" STAGE_MARK_WAS; STAGE_MARK_WAS="$("$python" scripts/shell_parts.py identity "$mark")"
    state="$(state_of "$number" "$@")"
    if [ -z "$renewed" ] && [ -z "$stage_given" ] && [ "$(cat "$mark" 2> /dev/null)" = "$state" ]; then
        echo "stage $number ($name): done before"
        return 0
    fi
    if [ "$node_rank" -gt 0 ]; then
        renewed=1
        case $number in 3 | 5) ;; *) return 0 ;; esac
        echo "stage $number ($name), machine $node_rank"
        "$@" || { status=$?; echo "$program: stage $number ($name) ended with status $status on machine $node_rank" >&2
                  exit "$status"; }
        return 0
    fi
    # an interrupted stage goes on; one that was done, or whose command or input has changed, starts from scratch
    if [ -n "$renewed" ] || [ -e "$mark" ] || [ "$(cat "$recipe/.begun_$number" 2> /dev/null)" != "$state" ]; then
        case $number in 3) rm -f "$encoder"/resume*.pth ;; 5) rm -f "$generator"/resume*.pth ;; esac
    fi
    renewed=1
    rm -f "$mark"
    for later in 1 2 3 4 5 6 7 8; do       # made again, even if we are killed before we come there
        [ "$later" -le "$number" ] || rm -f "$recipe/.done_$later" "$recipe/.begun_$later"
    done
    put "$state" "$recipe/.begun_$number"
    echo "stage $number ($name)"
    began=$("$python" scripts/shell_parts.py now)
    "$@" || status=$?
    [ "$status" = 0 ] || { echo "$program: stage $number ($name) ended with status $status; the same command goes on from there" >&2
                           exit "$status"; }
    "$python" scripts/stage_time.py "$recipe/stages.jsonl" "$number" "$name" "$began" "$(command_of "$@")"
    [ "$number" != 1 ] || state="$(state_of "$number" "$@")"       # it adds the recordings to what it reads
    put "$state" "$mark"
}

command_of() {  # command … : as one line; fetching changes no result
    local command; command="$(printf '%q ' "$@")"; printf '%s' "${command#fetched }"
}

state_of() {    # number, command … : the command, wherever the project lies, and a fingerprint of what it reads
    local command here; command="$(command_of "${@:2}")"; here="$(printf '%q' "$PWD")"
    printf '%s\n' "${command//"$here"/.}"
    fingerprint "$1"
}

fingerprint() { # number: of split files and cfg by content; of large files by size, first and last MiB
    local files=() whole=()
    case $1 in
        3) [ -n "$no_teacher" ] || files=("$data"/{train,test}/image_features_"$teacher".pickle) ;;
        4) files=("$encoder/latest.pth") ;;
        7) files=("$encoder/latest.pth" "$data_root"/pretrained/pt_inception-2015-12-05-6726825d.pth) ;;  # if it is there
        5) files=("$data"/{train,test}/audio_features_"$features".pickle) ;;
        6) files=("$generator/Model/latest.pth") ;;
    esac
    [ "$1" = 0 ] || whole=("$data"/{train,test}.json)
    case $1 in 5 | 6) whole+=("$gan_cfg") ;; esac
    "$python" scripts/shell_parts.py fingerprint ${whole[@]+"${whole[@]}"} -- ${files[@]+"${files[@]}"}
}

put() { printf '%s' "$1" > "$2.tmp" && mv "$2.tmp" "$2"; }     # text, file: complete or not at all

launch() {      # script … : through torchrun when there are several processes
    local where=(--standalone)
    [ "$nnodes" -le 1 ] || where=(--nnodes "$nnodes" --node_rank "$node_rank" --master_addr "$master_addr"
                                  --master_port "$master_port")
    if [ "$nproc" -gt 1 ] || [ "$nnodes" -gt 1 ]; then
        PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" -m common.distributed.launch "${where[@]}" \
            --nproc_per_node "$nproc" "$@"
    else
        "$python" "$@"
    fi
}

end_of_training() { [ "$node_rank" -eq 0 ] || exit 0; }       # what follows is machine 0's

fetched() {     # command … : fetch what of $download and $download_extra is not there yet, then run the command
    "$python" ./scripts/download.py $download --data_root "$data_root" $download_options &&
        { [ -z "$download_extra" ] ||
          "$python" ./scripts/download.py $download_extra --data_root "$data_root" $download_options ||
          echo "$program: going on without $download_extra; the numbers are then named after the network that measures" >&2
        } && "$@"
}

with_published_speech() {       # command … : get the authors' recordings, then run the command: it speaks what is missing
    "$python" ./scripts/download.py "$published_speech" --data_root "$data_root" \
        ${speech_archive:+--archive "$speech_archive"} && "$@"
}

# ---- stages of both ------------------------------------------------------------------------------------------------
data_stages() {
    [ -z "$prepare" ] || run_stage 0 data ${download:+fetched} "$python" $prepare --output_dir "$data"
    [ "$engine" = none ] || run_stage 1 speech $([ "$speech" = synthesised ] || echo with_published_speech) "$python" ./Audio_to_Image/text_to_speech.py --dataset "$dataset" \
        --data_root "$data_root" --engine "$engine" ${captions_per_image:+--captions_per_image "$captions_per_image"} \
        $speech_options
    if [ -z "$no_teacher" ]; then
        run_stage 2 "image features" "$python" ./Audio_to_Image/prepare_image_feature.py --dataset "$dataset" \
            --data_root "$data_root" --teacher "$teacher" --device "$device" $teacher_options
    elif [ "$stage" -le 2 ] && [ "$stop_stage" -ge 2 ]; then
        echo "stage 2 (image features): the encoder learns from the images"
    fi
}

encoder_stage() {      # trains in $encoder with $seed and $encoder_options
    run_stage 3 encoder bash ./run_audio_encoder.sh "$nproc" --dataset "$dataset" --data_root "$data_root" \
        --output_dir "$encoder" --teacher "$teacher" --device "$device" --manualSeed "$seed" $encoder_options
}

evaluate_encoder() {
    "$python" ./Audio_to_Image/evaluate.py --model "$encoder/latest.pth" --dataset "$dataset" --data_root "$data_root" \
        --teacher "$teacher" --device "$device"
}
