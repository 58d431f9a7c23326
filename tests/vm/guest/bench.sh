#!/bin/sh
# A Pi's pins and a USB scanner, made of nothing but kernel parts. Runs inside the guest, as root.
#
#   /dev/gpiochip0     54 lines of gpio-sim; a freed line keeps its level, as on a Pi. From outside the program under test:
#                      cat /sys/devices/platform/gpio-sim.0/gpiochip*/sim_gpio17/value          reads an output
#                      echo pull-down > /sys/devices/platform/gpio-sim.0/gpiochip*/sim_gpio27/pull    presses an input
#   /dev/input/by-id/usb-Virtual_Barcode_Scanner_SN1-event-kbd    types what is written to /dev/hidg0, 8-byte boot reports
#   /dev/serial/by-id/usb-Virtual_Barcode_Scanner_SN1-if01        sends what is written to /dev/ttyGS0
#   /dev/input/by-id/usb-Virtual_Barcode_Scanner_SN2-event-kbd    a second keyboard, twin of the first: /dev/hidg1
#
# Unplug: echo > /sys/kernel/config/usb_gadget/SN1/UDC; plug in: echo dummy_udc.0 > the same. SN2: dummy_udc.1.
# /sys/kernel/tracing reports each level set on a line, short ones too, and each change of its direction
# (line = the chip's base + pin).
set -eu
config=/sys/kernel/config
tracing=/sys/kernel/tracing
modprobe gpio-simulator
modprobe dummy_hcd num=2
modprobe libcomposite
mountpoint -q $config || mount -t configfs none $config
mountpoint -q $tracing || mount -t tracefs none $tracing

mkdir -p $config/gpio-sim/pi/bank0
echo 54 > $config/gpio-sim/pi/bank0/num_lines
echo 1 > $config/gpio-sim/pi/live
echo mono > $tracing/trace_clock
echo 1 > $tracing/events/gpio/enable
# The resistor of the exit's relay, which is energised when its line is low.
echo pull-up > $(echo /sys/devices/platform/gpio-sim.0/gpiochip*/sim_gpio22/pull)

# What types and, with a function named as well, sends: a serial number, a socket to plug it into, that function.
plug_in_scanner() {
    gadget=$config/usb_gadget/$1
    keyboard=functions/hid.$1
    mkdir $gadget
    cd $gadget
    echo 0x1d6b > idVendor
    echo 0x0104 > idProduct
    mkdir strings/0x409
    echo Virtual > strings/0x409/manufacturer
    echo "Barcode Scanner" > strings/0x409/product
    echo $1 > strings/0x409/serialnumber
    mkdir configs/c.1 $keyboard
    echo 1 > $keyboard/protocol
    echo 1 > $keyboard/subclass
    echo 8 > $keyboard/report_length
    # The boot keyboard's report descriptor: USB HID 1.11, appendix B.1.
    printf '\005\001\011\006\241\001\005\007\031\340\051\347\025\000\045\001\165\001\225\010\201\002\225\001\165\010\201\003\225\005\165\001\005\010\031\001\051\005\221\002\225\001\165\003\221\003\225\006\165\010\025\000\045\145\005\007\031\000\051\145\201\000\300' > $keyboard/report_desc
    ln -s $keyboard configs/c.1/
    if [ -n "${3:-}" ]; then
        mkdir functions/$3
        ln -s functions/$3 configs/c.1/
    fi
    echo $2 > UDC
}
plug_in_scanner SN1 dummy_udc.0 acm.usb0
plug_in_scanner SN2 dummy_udc.1

# As Raspberry Pi OS's packages are; else each start of gated would compile gpiozero anew.
python3 -m compileall -q /usr/local/lib/python3*/dist-packages

# gpiozero asks which Pi this is: a Pi 4 Model B.
(cat /proc/cpuinfo; printf 'Revision\t: c03111\n') > /run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
udevadm settle
