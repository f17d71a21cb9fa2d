# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Completion of xvm for bash.

_xvm_connections()
{
	# Only what xvm itself would take, and nothing on the terminal if no xvmd answers.
	xvm ss 2>/dev/null | awk 'NR > 1 { for (i = 3; i <= NF; i++) if ($i ~ /^[0-9]+$/) { print $1 ":" $i; next } }'
}

_xvm()
{
	local cur prev words cword
	_init_completion -n : || return

	local commands="run ss resident leave enter stats check vm-args enable disable bench"
	local i command=
	for ((i = 1; i < cword; i++)); do
		[[ ${words[i]} = -* ]] || {
			command=${words[i]}
			break
		}
	done
	if [[ -z $command ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$cur")
		return
	fi
	case $prev in
	--socket | --lib)
		_filedir
		return
		;;
	--program)
		_command_offset "$cword"
		return
		;;
	--root)
		_filedir -d
		return
		;;
	--log)
		mapfile -t COMPREPLY < <(compgen -W "0 1 2 3" -- "$cur")
		return
		;;
	--pin)
		mapfile -t COMPREPLY < <(compgen -W "split same both none" -- "$cur")
		return
		;;
	--spin | --sizes | --seconds | --rounds | --addr | --netns)
		return
		;;
	esac

	local options="--help --socket" operands=
	case $command in
	run)
		# From CMD on it is the other program's business.
		local j
		for ((j = i + 1; j <= cword; j++)); do
			case ${words[j]} in
			--socket | --log | --spin | --lib) ((j++)) ;;
			--) ((j++)) ; break ;;
			-*) ;;
			*) break ;;
			esac
		done
		if ((j < cword)) || { ((j == cword)) && [[ $cur != -* ]]; }; then
			_command_offset "$j"
			return
		fi
		options+=" --private --log --spin --lib --"
		;;
	ss | resident) options+=" --json" ;;
	leave | enter)
		options+=" --all"
		operands=$(_xvm_connections)
		;;
	stats) options+=" --json --prometheus --reset" ;;
	check) options+=" --lib --program" ;;
	vm-args)
		options+=" --libvirt --no-iommu"
		operands=$(xvm vm-args 2>/dev/null)
		;;
	enable | disable)
		options="--help --root"
		[[ $command = disable ]] || options+=" --socket --lib"
		operands=$(systemctl list-unit-files --type=service --no-legend --no-pager 2>/dev/null | awk '{ print $1 }')
		;;
	bench)
		options+=" --pin --sizes --seconds --rounds --addr --netns --lib --json"
		operands="rtt1 stream crr other"
		;;
	*) return ;;
	esac
	[[ $cur = -* ]] && operands=
	[[ $cur != -* && -n $operands ]] && options=
	mapfile -t COMPREPLY < <(compgen -W "$options $operands" -- "$cur")
	__ltrim_colon_completions "$cur"
} &&
	complete -F _xvm xvm
